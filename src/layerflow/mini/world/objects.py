"""Objects of the foreground, one emoji glyph each.

`OBJECTS` is the small vocabulary that the model learns to draw from prompts. Four of them are held out of training and
test the decomposition of unseen foregrounds. `EXTRA_OBJECTS` add shapes for tasks whose given clips show the
foreground. `SOFT_OBJECTS` are see-through, glowing, thin or in many parts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectSpec:
    """One foreground object."""

    name: str
    """Plain name, unique among all objects, and the first of `nouns`."""
    char: str
    """Single code point of Noto Color Emoji; empty for objects that a painter of `soft` draws."""
    held_out: bool
    """The object is never part of a training scene."""
    core: bool
    """The model learns to draw the object from its name alone."""
    nouns: tuple[str, ...]
    """Nouns of captions, the plain name first."""

    @property
    def glows(self) -> bool:
        """Whether it casts light and no shadow."""
        return self.name in GLOWING


def _parse(table: str, *, core: bool, held_out: bool = False) -> tuple[ObjectSpec, ...]:
    """Parse lines of `glyph noun|synonym; glyph noun; ...`."""
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
"""The 34 core objects of training scenes, then the 4 held-out ones."""

EXTRA_OBJECTS: tuple[ObjectSpec, ...] = _parse(_EXTRA, core=False)
"""Further objects, which the model never has to draw from their names alone."""

_SOFT = {
    "soap bubble": ("soap bubble", "bubble"),
    "glass ball": ("glass ball", "ball of glass", "crystal ball"),
    "puff of smoke": ("puff of smoke", "cloud of smoke"),
    "glowing light": ("glowing light", "ball of light"),
    "burst of sparks": ("burst of sparks", "shower of sparks"),
    "dandelion": ("dandelion", "dandelion clock"),
}

SOFT_OBJECTS: tuple[ObjectSpec, ...] = tuple(ObjectSpec(name, "", False, False, nouns) for name, nouns in _SOFT.items())
"""Objects with soft alpha, drawn by the painters of `soft`."""

GLOWING = ("glowing light", "burst of sparks", "flame", "light bulb")
"""Objects that cast light and no shadow."""
