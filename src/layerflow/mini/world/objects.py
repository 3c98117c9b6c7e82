"""The things that can stand in the foreground: one emoji glyph each.

`OBJECTS` is the small vocabulary the model learns to draw from words. Four of them are held out: they are
never trained on and show how well a foreground the model has never seen is taken out of a blended clip.
`EXTRA_OBJECTS` widens the shapes seen in tasks where the foreground is shown to the model anyway. `SOFT_OBJECTS` are
see-through, glowing, thin or in many parts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectSpec:
    """One foreground object."""

    name: str
    """Plain name, unique among all objects; also the first of `nouns`."""
    char: str
    """A single code point of Noto Color Emoji; empty: a painter of `soft` draws it."""
    held_out: bool
    """True: never part of a training scene."""
    core: bool
    """True: the model learns to draw it from its name alone."""
    nouns: tuple[str, ...]
    """Words that captions may use for it, the plain name first."""


def _parse(table: str, *, core: bool, held_out: bool = False) -> tuple[ObjectSpec, ...]:
    """Reads lines of `glyph noun|synonym; glyph noun; ...`."""
    specs = []
    for entry in table.replace("\n", " ").split(";"):
        if entry.strip():
            char, words = entry.strip().split(" ", 1)
            nouns = tuple(word.strip() for word in words.split("|"))
            specs.append(ObjectSpec(nouns[0], char, held_out, core, nouns))
    return tuple(specs)


_TRAINED = """
🍎 apple; 🍌 banana; 🍉 watermelon|slice of watermelon; 🍕 pizza|slice of pizza;
🍦 ice cream|soft ice cream|ice cream cone; 🧁 cupcake|muffin; 🍄 mushroom|toadstool; 🌵 cactus; 🌷 tulip;
🌻 sunflower; 🍀 clover|four-leaf clover; ❤ heart|love heart; ⭐ star|five-pointed star;
🎈 balloon|party balloon|toy balloon; 🔑 key|door key; 🔔 bell; 🎸 guitar|electric guitar;
🚀 rocket|spaceship|space rocket; 🚗 car|automobile|motor car; ⛵ sailboat|sailing boat|yacht;
✈ airplane|plane|aeroplane|jet plane; 🏠 house|little house|cottage|home; ⚽ soccer ball|football;
🐱 cat|kitten|cat face|kitty; 🐶 dog|puppy|dog face|pup; 🐼 panda|panda bear; 🐸 frog|toad; 🐧 penguin;
🐠 fish|tropical fish; 🐳 whale; 🦋 butterfly; 🐞 ladybug|ladybird; 🐙 octopus; 🐢 turtle|tortoise
"""

# One from each of four kinds: an animal, a vehicle, a fruit, a thing.
_HELD_OUT = "🦊 fox; 🚌 bus; 🍓 strawberry; ☂ umbrella"

_EXTRA = """
🍐 pear; 🍊 orange; 🍋 lemon; 🍇 bunch of grapes; 🍍 pineapple; 🥝 kiwi; 🍒 pair of cherries; 🍑 peach;
🥥 coconut; 🥑 avocado; 🍆 eggplant|aubergine; 🥔 potato; 🥕 carrot; 🌽 corn cob; 🥒 cucumber;
🥦 broccoli; 🧄 garlic bulb; 🧅 onion; 🥜 peanut; 🌰 chestnut; 🍞 loaf of bread; 🥐 croissant;
🥨 pretzel; 🥞 stack of pancakes; 🧀 wedge of cheese; 🍔 burger|hamburger; 🍟 box of fries; 🌭 hot dog;
🌮 taco; 🥚 egg; 🍿 box of popcorn; 🍩 doughnut|donut; 🍪 cookie; 🎂 birthday cake; 🍭 lollipop;
🍬 candy; 🍯 honey pot; ☕ cup of coffee; 🍵 cup of tea; 🍷 glass of wine; 🍹 cocktail; 🐵 monkey;
🦍 gorilla; 🦁 lion; 🐯 tiger; 🐴 horse; 🦄 unicorn; 🦓 zebra; 🐮 cow; 🐷 pig; 🐏 ram; 🐑 sheep;
🐪 camel; 🦙 llama; 🦒 giraffe; 🐘 elephant; 🦏 rhinoceros; 🐭 mouse; 🐹 hamster; 🐰 rabbit|bunny;
🦔 hedgehog; 🐻 bear; 🐨 koala; 🦘 kangaroo; 🐔 chicken; 🐤 chick; 🦅 eagle; 🦆 duck; 🦢 swan; 🦉 owl;
🦚 peacock; 🦜 parrot; 🐊 crocodile; 🦎 lizard; 🐍 snake; 🐉 dragon; 🦕 dinosaur; 🐬 dolphin;
🐡 pufferfish; 🦈 shark; 🐚 seashell; 🐌 snail; 🐛 caterpillar; 🐝 bee; 🦀 crab; 🦞 lobster; 🦐 shrimp;
🌹 rose; 🌼 daisy; 🌲 pine tree; 🌳 tree; 🌴 palm tree; 🍁 maple leaf; 🚂 steam engine; 🚑 ambulance;
🚒 fire engine; 🚕 taxi; 🚚 truck; 🚜 tractor; 🛴 scooter; 🚲 bicycle|bike; 🚁 helicopter;
🛸 flying saucer; ⚓ anchor; 🏰 castle; ⛺ tent; 🎡 ferris wheel; 🌈 rainbow; ⛄ snowman; 🔥 flame;
💧 drop of water; 🎁 gift|present; 🏆 trophy; 🏀 basketball; 🏈 american football; 🎾 tennis racket;
🎳 set of bowling pins; 🥊 boxing glove; 🎯 target; 🎲 die; 🧩 puzzle piece; 🧸 teddy bear; 🎩 top hat;
👑 crown; 💎 diamond; 🎺 trumpet; 🎻 violin; 🥁 drum; 📷 camera; 💡 light bulb; 📕 book; ✏ pencil;
✂ pair of scissors; 🔒 padlock; 🔨 hammer; 🧲 magnet; 🚪 door; 🪑 chair; 🛒 shopping cart; 🤖 robot;
👻 ghost; 🎃 pumpkin; 👽 alien
"""

OBJECTS: tuple[ObjectSpec, ...] = _parse(_TRAINED, core=True) + _parse(_HELD_OUT, core=True, held_out=True)
"""34 core objects to train on, then the 4 held-out ones."""

EXTRA_OBJECTS: tuple[ObjectSpec, ...] = _parse(_EXTRA, core=False)
"""Further objects, shown to the model but never asked of it by name alone."""

_SOFT = {
    "soap bubble": ("soap bubble", "bubble"),
    "glass ball": ("glass ball", "ball of glass", "crystal ball"),
    "puff of smoke": ("puff of smoke", "cloud of smoke"),
    "glowing light": ("glowing light", "ball of light"),
    "burst of sparks": ("burst of sparks", "shower of sparks"),
    "dandelion": ("dandelion", "dandelion clock"),
}

SOFT_OBJECTS: tuple[ObjectSpec, ...] = tuple(ObjectSpec(name, "", False, False, nouns) for name, nouns in _SOFT.items())
"""Drawn by the painters of `soft`, with soft alpha."""

GLOWING = ("glowing light", "burst of sparks", "flame", "light bulb")
"""Objects that cast light and no shadow."""
