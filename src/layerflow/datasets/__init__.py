"""Layered training data from real footage: masks, cut-outs and backgrounds to WebDataset shards."""

from .build import build_shards
from .recipe import FootageRecipe, load_footage_recipe
from .scan import Item, find_items

__all__ = ["FootageRecipe", "Item", "build_shards", "find_items", "load_footage_recipe"]
