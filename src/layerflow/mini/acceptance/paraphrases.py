"""Paraphrased prompts, which test a model on wordings that its training captions do not have.

Each entry describes one object twice, in the plain words of the training captions and as a paraphrase: synonyms,
plurals, another order, long sentences, careless spelling. No training caption equals a text on the right of the bar.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...core.schema import BACKGROUND, BLENDED, FOREGROUND
from ...models.text import blended_prompt
from ..world import OBJECTS, ObjectSpec, Scene, SceneSource

_TABLE = """
apple: an apple | a piece of fruit, namely an apple
apple: a red apple | one crimson apple, fresh from the tree
apple: an apple falling | an apple plummeting to the ground
banana: a banana | a bunch of bananas
banana: a banana spinning | a ripe banana turning round and round
banana: a yellow banana | a banana, golden in colour
watermelon: a watermelon | a wedge of juicy watermelon
watermelon: a watermelon rising | a melon slice that goes upward
watermelon: a watermelon on the left | over on the left there lies a watermelon
pizza: a pizza | a slice of pizza with pepperoni
pizza: a pizza moving right | pizza sliding rightwards
pizza: a pizza | some italian pizza, please
ice cream: an ice cream | a cone of vanilla ice cream
ice cream: an ice cream swaying | soft serve ice cream that sways gently
ice cream: a pink ice cream | an ice cream of strawberry pink
cupcake: a cupcake | a small cake in a paper cup, a cupcake
cupcake: a cupcake bouncing | bouncing cupcakes
cupcake: a blue cupcake | a frosted cupcake, all in blue
mushroom: a mushroom | a fly agaric mushroom in the forest
mushroom: a mushroom growing | a mushroom that gets larger and larger
mushroom: a red mushroom | scarlet fungus, a mushroom
cactus: a cactus | a prickly cactus plant from the desert
cactus: a cactus | cacti in the burning sun
cactus: a cactus swaying | in the wind, a cactus tilts from side to side
tulip: a tulip | a pink spring flower, the tulip
tulip: a tulip | tulips from holland
tulip: a tulip rising | a tulip soaring up
sunflower: a sunflower | a large sunflower in bloom
sunflower: a sunflower spinning | a sunflower that revolves
sunflower: a sunflower | sunflowers in summer
clover: a clover | a lucky four-leaved clover
clover: a clover | a green shamrock
heart: a heart | a symbol of love, a heart
heart: a heart growing | a beating heart that expands
heart: a blue heart | a heart coloured in azure blue
heart: a heart | hearts for valentine
star: a star | a star shape
star: a star falling | a star tumbling downwards
star: a yellow star | a bright gold star
balloon: a balloon | an inflated balloon on a string
balloon: a red balloon rising | a crimson balloon flying up and away
balloon: a balloon on the right | to the right, a birthday balloon
balloon: a balloon | balloons let loose at a wedding
key: a key | an old brass key
key: a key spinning | a key that turns in circles
key: a key | a ring of keys
bell: a bell | a ringing bell
bell: a bell swaying | a church bell that swings from side to side
bell: a bell | bells that ring for mass
guitar: a guitar | a rock guitar with six strings
guitar: a guitar | a musical instrument, the guitar
guitar: a guitar moving left | a guitar travelling leftwards
rocket: a rocket | a space shuttle rocket
rocket: a rocket rising | a rocket launching into the sky
rocket: a rocket | rockets on a space mission
car: a car | a small passenger vehicle, a car
car: a red car moving left | a scarlet automobile drives to the left
car: a car | a parked motorcar
sailboat: a sailboat | a boat with sails
sailboat: a sailboat moving right | a sailing ship cruising to the right
sailboat: a sailboat | sailboats at a regatta
airplane: an airplane | an aircraft
airplane: an airplane rising | an airliner taking off
airplane: a white airplane | a white passenger jet
house: a house | a family house with a garden
house: a house | a cosy small building to live in
house: a purple house | a house painted violet
soccer ball: a soccer ball | a ball for playing soccer
soccer ball: a soccer ball bouncing | a football that jumps up and down
soccer ball: a soccer ball | soccer balls for a match
cat: a cat | a domestic cat
cat: a cat | a feline
cat: an orange cat | a ginger tabby cat
cat: a cat bouncing | cats leaping
dog: a dog | a canine
dog: a dog | man's best friend, the dog
dog: a dog standing still | a hound that does not move
dog: a dog moving right | a doggy walking to the right
panda: a panda | a giant panda from china
panda: a panda | pandas that eat bamboo
panda: a panda swaying | a black and white panda bear, swaying to and fro
frog: a frog | a green amphibian, the frog
frog: a frog bouncing | a frog that leaps again and again
frog: a frog | frogs by a pond
penguin: a penguin | an antarctic penguin
penguin: a penguin moving left | a penguin waddles left
penguin: a penguin | a colony of penguins
fish: a fish | a striped fish from the coral reef
fish: a fish moving right | a fish swims to the right
whale: a whale | a big whale in the ocean
whale: a whale | a pod of whales
butterfly: a butterfly | an insect with wide wings, the butterfly
butterfly: a butterfly rising | a butterfly fluttering upward
butterfly: a butterfly | a swarm of butterflies
ladybug: a ladybug | a ladybird beetle with black spots
ladybug: a ladybug | lady bug
octopus: an octopus | an octopus with eight arms
octopus: an octopus | an octopus, from the deep sea
turtle: a turtle | a sea turtle with a shell
turtle: a turtle moving left | a slow turtle crawling to the left
"""


@dataclass(frozen=True)
class Paraphrase:
    """Two descriptions of one object."""

    object: ObjectSpec
    plain: str
    """Prompt in the words of the training captions."""
    other: str
    """Prompt in other words."""


def _parse(table: str) -> tuple[Paraphrase, ...]:
    objects = {entry.name: entry for entry in OBJECTS}
    entries = []
    for line in table.strip().splitlines():
        name, prompts = line.split(": ", 1)
        plain, other = prompts.split(" | ")
        entries.append(Paraphrase(objects[name], plain, other))
    return tuple(entries)


PARAPHRASES = _parse(_TABLE)
"""One hundred paraphrases."""


def paraphrased_scene(source: SceneSource, seed: int, index: int, scene: Scene, *, plain: bool) -> Scene:
    """Draw a scene with the object of a paraphrase, standing still in its middle, and with its prompts.

    Args:
        source: source of the scene.
        seed, index: seed and index of the sample; three seeds go through all paraphrases in turn.
        scene: scene whose background and random jitter are kept.
        plain: use the plain prompt instead of the paraphrase.
    """
    entry = PARAPHRASES[(3 * index + seed) % len(PARAPHRASES)]
    spec = replace(scene.spec, object=entry.object, colour=None, motion="still", place="centre")
    captions = {FOREGROUND: entry.plain if plain else entry.other, BACKGROUND: scene.captions[BACKGROUND]}
    captions[BLENDED] = blended_prompt(captions[FOREGROUND], captions[BACKGROUND])
    return replace(source.render(spec), captions=captions)
