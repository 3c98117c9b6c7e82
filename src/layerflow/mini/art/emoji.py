"""Names of emoji for captions, and which emoji are worth a caption.

Labels come from the package `emojibase-data`. They are made plain: "man: beard" becomes "man with a beard", "lady
beetle" becomes "ladybug".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from layerflow.mini.art.packages import folder_of
from layerflow.mini.art.pictures import ArtError
from layerflow.mini.world.nouns import listed


@dataclass(frozen=True)
class Emoji:
    """An emoji that a caption can name."""

    code: str
    """Code points in hexadecimal without variation selectors, such as "1f3c3-200d-2640"."""
    label: str
    """English label of Unicode."""
    name: str
    """Plain noun without an article."""
    words: tuple[str, ...]
    """Other nouns."""
    thing: bool
    """Whether it is a thing, a plant, an animal or a creature, in contrast to faces, hands, hearts and people."""


def read_emoji(art: Path) -> dict[str, Emoji]:
    """Return all emoji that a caption can name and Microsoft has drawn, by code points, in the order of Unicode.

    Flags of countries, skin tones, letters, signs and arrows are left out.

    Raises:
        ArtError: a package is missing or damaged.
    """
    data = folder_of(art, "emojibase-data")
    drawn = {plain_code(code) for code in read_json(folder_of(art, "@iconify-json/fluent-emoji-flat") / "chars.json")}
    subgroups = read_json(data / "meta" / "groups.json")["subgroups"]
    found = {}
    for entry in sorted(read_json(data / "en" / "data.json"), key=lambda entry: entry.get("order", 0)):
        code, label = plain_code(entry["hexcode"]), entry["label"]
        subgroup = subgroups.get(str(entry.get("subgroup")), "")
        if code in drawn and subgroup and not _unfit(subgroup, label):
            name = plain_name(label)
            thing = subgroup not in _NO_THINGS and not label.startswith(("man ", "woman ", "men ", "women "))
            found[code] = Emoji(code, label, name, _words(name, subgroup), thing)
    return found


def read_json(file: Path):
    """Return the content of a JSON file of a package.

    Raises:
        ArtError: the file is missing or no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtError(f"{file} cannot be read ({error}); fetch the art again with `tools/atlas.py fetch`") from error


def plain_code(code: str) -> str:
    """Return code points in lower case without variation selectors."""
    return re.sub("-fe0f", "", code.lower())


def plain_name(label: str) -> str:
    """Return the noun of captions for the label of an emoji, in lower case."""
    if label in RENAMED:
        return RENAMED[label]
    label = label.replace("\u2019", "'")
    person, colon, trait = label.partition(": ")
    if colon:
        label = f"bald {person}" if trait == "bald" else f"{person} with {'a ' * (trait == 'beard')}{trait}"
    gender, _, role = label.partition(" ")
    if gender in _GENDERS and not re.match(_NO_ROLE, role) and not colon:
        return f"{_GENDERS[gender]} {plain_name(role)}"
    for short, full in _ACTIVITIES.items():
        label = re.sub(rf"{short}$", full, label)
    return label.lower()


_GENDERS = {"man": "male", "woman": "female"}
_NO_ROLE = r"(mountain )?\w+ing\b|in\b|with\b|and\b|$"
"""What follows "man" or "woman" where it is no role, such as "man running" in contrast to "man judge"."""


def _unfit(subgroup: str, label: str) -> bool:
    if label in _LEFT_OUT or "facing right" in label:
        return True
    return subgroup in _UNFIT or (
        subgroup == "time" and ("o\u2019clock" in label or "-thirty" in label) and label != _CLOCK
    )


def _words(name: str, subgroup: str) -> tuple[str, ...]:
    """Return synonyms, the last noun of a longer name, and the kind of thing."""
    words = list(_SYNONYMS.get(name, ()))
    parts = name.split()
    if len(parts) == 2 and parts[1] in _HEADS and name not in _OTHER_KINDS:
        words.append(parts[1])
    if subgroup.startswith("animal-") and name.endswith(" face"):
        words.append(name.removesuffix(" face"))
    words += _KINDS.get(subgroup, ()) if name not in _OTHER_KINDS else ()
    return tuple(dict.fromkeys(word for word in words if word != name))


_CLOCK = "three o\u2019clock"
"""The one clock face that is kept of 24 that look alike."""

_UNFIT = listed(
    """
    skin-tone; hair-style; transport-sign; warning; arrow; religion; zodiac; av-symbol; gender; math; punctuation;
    currency; other-symbol; keycap; alphanum; geometric; country-flag; subdivision-flag
    """
)
"""Subgroups that a caption cannot name well."""

_NO_THINGS = listed(
    """
    face-smiling; face-affection; face-tongue; face-hand; face-neutral-skeptical; face-sleepy; face-unwell; face-
    hat; face-glasses; face-concerned; face-negative; cat-face; monkey-face; heart; emotion; hand-fingers-open;
    hand-fingers-partial; hand-single-finger; hand-fingers-closed; hands; hand-prop; person; person-gesture; family;
    person-symbol; flag
    """
)
"""Subgroups of which only those that move are drawn."""

_LEFT_OUT = listed(
    """
    middle finger; foggy; night with stars; cityscape; cityscape at dusk; sunrise; sunrise over mountains; sunset;
    bridge at night; milky way; hot springs; world map; map of Japan; desert; national park; beach with umbrella;
    camping; motorway; station; e-mail; mahjong red dragon; moon viewing ceremony; performing arts; admission
    tickets; chart increasing with yen; Japanese post office; post office; love hotel; bank; hospital; hotel;
    convenience store; department store; kaaba; level slider; mobile phone with arrow; envelope with arrow; incoming
    envelope; hamsa; locked with pen; anger symbol; hundred points; right anger bubble; left speech bubble; eye in
    speech bubble; ZZZ; rainbow flag; transgender flag; spade suit; heart suit; diamond suit; club suit; stop sign;
    construction; prohibited; page with curl; page facing up; bookmark tabs; card index dividers; crossed flags;
    raised back of hand; left-facing fist; right-facing fist; placard; white cane; pine decoration; bell with slash;
    muted speaker; speaker medium volume; speaker low volume; input numbers; closed mailbox with lowered flag; open
    mailbox with lowered flag; sweat droplets; dashing away; dizzy; collision; hole; kiss mark; heart decoration;
    heart exclamation; link; low battery; dim button; globe showing Asia-Australia; globe showing Americas; new
    moon; first quarter moon; last quarter moon; waxing gibbous moon; waning gibbous moon; waning crescent moon;
    rosette; umbrella on ground; hair pick; fog; shooting star; fireworks; sparkler; railway track; control knobs
    """
)
"""Pictures that fill a square with a scene, show writing, or have no plain name."""

_ACTIVITIES = {
    "rowing boat": "rowing a boat", "bouncing ball": "bouncing a ball", "cartwheeling": "doing a cartwheel",
    "taking bath": "taking a bath", "getting massage": "getting a massage", "getting haircut": "getting a haircut",
    "feeding baby": "feeding a baby", "raising hand": "raising a hand", "tipping hand": "holding out a hand",
    "gesturing NO": "crossing the arms", "gesturing OK": "with arms above the head", "with veil": "with a veil",
    "wearing turban": "wearing a turban", "in tuxedo": "in a tuxedo", "with skullcap": "with a skullcap",
    "with headscarf": "with a headscarf", "with crown": "with a crown", "in bed": "in a bed",
    "in suit levitating": "in a suit", "in motorized wheelchair": "in an electric wheelchair",
    "in manual wheelchair": "in a wheelchair", "with white cane": "with a white cane",
    "in steamy room": "in a steam bath", "in lotus position": "in the lotus position",
}  # fmt: skip

RENAMED = {
    "lady beetle": "ladybug", "front-facing baby chick": "chick", "bug": "caterpillar", "T-Rex": "tyrannosaurus",
    "hot beverage": "cup of coffee", "teacup without handle": "cup of tea", "automobile": "car",
    "oncoming automobile": "car from the front", "oncoming bus": "bus from the front",
    "oncoming taxi": "taxi from the front", "oncoming police car": "police car from the front",
    "articulated lorry": "lorry", "sport utility vehicle": "jeep", "light rail": "light rail train",
    "mountain cableway": "cable car", "aerial tramway": "gondola lift", "high voltage": "lightning bolt",
    "water wave": "wave", "hourglass done": "hourglass", "hourglass not done": "hourglass with flowing sand",
    "new moon face": "dark moon with a face", "first quarter moon face": "half moon with a face",
    "last quarter moon face": "half moon with a face", "full moon face": "full moon with a face",
    "sun with face": "sun with a face", "mage": "wizard", "health worker": "doctor",
    "droplet": "drop of water", "closed book": "red book",
    "ring buoy": "lifebuoy", "wrapped gift": "gift", "gem stone": "diamond", "ear of corn": "corn cob",
    "deciduous tree": "leafy tree", "evergreen tree": "fir tree", "game die": "die", "pool 8 ball": "billiard ball",
    "hot pepper": "chili pepper", "tennis": "tennis racket and ball", "bowling": "bowling ball with pins",
    "cricket game": "cricket bat", "field hockey": "hockey stick", "ice hockey": "ice hockey stick",
    "lacrosse": "lacrosse stick", "ping pong": "table tennis bat", "badminton": "badminton racket",
    "flag in hole": "golf hole with a flag", "railway car": "train carriage", "metro": "metro train",
    "tram car": "tram carriage", "bus stop": "bus stop sign", "horizontal traffic light": "traffic light",
    "vertical traffic light": "traffic light", "police car light": "police light", "airplane departure":
    "airplane taking off", "airplane arrival": "airplane landing", "seat": "airplane seat", "small airplane":
    "propeller plane", "three o\u2019clock": "wall clock", "snowman without snow": "snowman", "snowman":
    "snowman in the snow", "cloud with lightning and rain": "thundercloud with rain", "cloud with lightning":
    "thundercloud", "cloud with rain": "rain cloud", "cloud with snow": "snow cloud", "sun behind rain cloud":
    "sun behind a rain cloud", "sun behind small cloud": "sun behind a small cloud", "sun behind large cloud":
    "sun behind a large cloud", "sun behind cloud": "sun behind a cloud", "wind face": "blowing face",
    "cooking": "frying pan with an egg", "shallow pan of food": "pan of food", "cooked rice": "bowl of rice",
    "bread": "loaf of bread", "baguette bread": "baguette", "ice": "ice cube", "spaghetti": "plate of spaghetti",
    "steaming bowl": "bowl of noodles", "curry rice": "plate of curry", "sushi": "piece of sushi",
    "bacon": "strip of bacon", "butter": "piece of butter", "salt": "salt shaker", "popcorn": "box of popcorn",
    "french fries": "box of french fries", "pancakes": "stack of pancakes", "beans": "two beans",
    "tropical drink": "tropical cocktail", "pouring liquid": "glass being filled", "beverage box": "juice box",
    "mate": "cup of mate", "sake": "sake bottle with a cup", "wood": "log", "houses": "row of houses",
    "building construction": "crane at a building site",
    "wedding": "wedding chapel",     "classical building": "greek temple", "old key": "antique key",
    "locked": "padlock", "unlocked": "open padlock",
    "locked with key": "padlock with a key", "memo": "sheet of paper with a pencil", "label": "price tag",
    "headphone": "headphones", "musical score": "sheet of music", "optical disk": "compact disc", "dvd": "disc",
    "closed mailbox with raised flag": "mailbox", "open mailbox with raised flag": "open mailbox",
    "speaker high volume": "loud speaker", "loudspeaker": "public address speaker", "sheaf of rice": "ear of rice",
    "moai": "stone statue of a head", "bullseye": "dartboard", "video game": "game controller", "lotion bottle":
    "bottle of lotion", "bust in silhouette":
    "silhouette of a person", "busts in silhouette": "silhouettes of two people", "speaking head":
    "silhouette of a speaking head", "pistol": "water pistol", "mirror ball": "disco ball", "ok hand": "OK hand",
    "OK hand": "hand making an OK sign", "love-you gesture": "hand making a love sign", "sign of the horns":
    "hand making horns", "index pointing up": "finger pointing up", "backhand index pointing left":
    "finger pointing left", "backhand index pointing right": "finger pointing right", "backhand index pointing up":
    "hand pointing up", "backhand index pointing down": "finger pointing down", "thumbs up":
    "hand with thumb up", "thumbs down": "hand with thumb down", "vulcan salute": "hand with parted fingers",
    "folded hands": "praying hands", "raising hands": "raised hands", "palm up hand": "open palm",
    "palms up together": "cupped hands", "flexed biceps": "flexed arm", "selfie": "arm taking a selfie",
    "nail polish": "hand with nail polish", "deaf person": "person pointing at an ear", "mechanical arm": "robot arm",
    "mechanical leg": "robot leg", "breast-feeding":
    "woman nursing a baby", "Mx Claus": "person in a santa hat", "Mrs. Claus": "mrs claus",
    "Santa Claus": "santa claus", "horse racing": "jockey on a horse", "cat with wry smile": "smirking cat",
    "star-struck": "star-struck face", "money-mouth face": "face with dollar eyes",
    "rolling on the floor laughing": "face rolling with laughter", "zany face": "crazy face", "face savoring food":
    "face licking its lips", "Japanese dolls": "pair of japanese dolls", "umbrella with rain drops":
    "umbrella in the rain", "briefs": "swimming briefs",
    "woman\u2019s clothes": "blouse", "man\u2019s shoe": "men's shoe", "one-piece swimsuit": "swimsuit",
    "billed cap": "cap",
    "rescue worker\u2019s helmet": "rescue helmet", "dna": "strand of dna",
    "x-ray": "x-ray picture", "elevator": "lift", "roll of paper": "toilet roll", "bubbles": "soap bubbles",
    "coin": "gold coin", "money with wings": "banknotes with wings", "family": "family of three",
    "person": "person's head", "globe with meridians": "wire globe", "globe showing Europe-Africa": "earth globe",
    "tanabata tree": "bamboo with paper strips", "flying disc": "frisbee",
    "martial arts uniform": "judo suit", "thong sandal": "flip-flop", "red paper lantern": "paper lantern",
    "notebook with decorative cover": "notebook", "hammer and pick": "crossed hammer and pick",
    "hammer and wrench": "crossed hammer and wrench", "couch and lamp": "couch with a lamp", "headstone": "gravestone",
    "fish cake with swirl": "fish cake", "water closet": "toilet",
    "chequered flag": "checkered flag", "triangular flag": "red pennant",
    "oncoming fist": "fist from the front", "fork and knife with plate":
    "plate with fork and knife", "T-shirt": "t-shirt", "Tokyo tower": "tokyo tower", "1st place medal": "gold medal",
    "2nd place medal": "silver medal",
    "3rd place medal": "bronze medal", "chart increasing": "rising chart", "chart decreasing": "falling chart",
    "flower playing cards": "flower card", "victory hand": "hand making a victory sign", "call me hand":
    "hand making a call sign", "pinched fingers": "hand with pinched fingers", "hand with fingers splayed":
    "hand with spread fingers", "supervillain": "villain", "technologist": "person with a laptop",
    "see-no-evil monkey": "monkey covering its eyes", "hear-no-evil monkey":
    "monkey covering its ears", "speak-no-evil monkey": "monkey covering its mouth", "herb": "sprig of herbs",
    "magnifying glass tilted left": "magnifying glass", "magnifying glass tilted right": "magnifying glass",
    "leafy green": "lettuce", "cut of meat": "steak", "man technologist": "man with a laptop",
    "woman technologist": "woman with a laptop", }  # fmt: skip
"""Plain names of labels that a caption would not use."""

_SYNONYMS = {
    "car": ("automobile",), "bicycle": ("bike",), "airplane": ("plane", "aeroplane"), "motorcycle": ("motorbike",),
    "rabbit": ("bunny",), "blowfish": ("pufferfish",), "doughnut": ("donut",), "hamburger": ("burger",),
    "eggplant": ("aubergine",), "ladybug": ("ladybird",), "honeybee": ("bee",), "gift": ("present",),
    "taxi": ("cab",), "lorry": ("truck",), "delivery truck": ("van", "truck"), "tangerine": ("orange",),
    "sailboat": ("sailing boat", "yacht"), "flying saucer": ("ufo",), "chick": ("baby bird",),
    "tyrannosaurus": ("dinosaur",), "sauropod": ("dinosaur",), "couch with a lamp": ("sofa",),
    "spiral shell": ("seashell",),
    "hippopotamus": ("hippo",), "rhinoceros": ("rhino",), "locomotive": ("steam engine",),
    "jack-o-lantern": ("pumpkin",),
    "leafy tree": ("tree",), "fir tree": ("tree",), "lightning bolt": ("flash",), "fire": ("flame",),
    "cup of coffee": ("coffee",), "cup of tea": ("tea",), "ewe": ("sheep",), "ram": ("sheep",), "ox": ("bull",),
    "wizard": ("magician",), "cook": ("chef",), "handbag": ("bag",), "purse": ("bag",), "backpack": ("rucksack",),
    "mobile phone": ("smartphone",), "television": ("tv",), "laptop": ("computer",), "flashlight": ("torch",),
    "fire engine": ("fire truck",), "soccer ball": ("football",), "diamond": ("gem",), "lift": ("elevator",),
    "wrench": ("spanner",), "pile of poo": ("poop",), "lollipop": ("sweet",), "baby chick": ("chick",),
    "robot": ("android",), "alien monster": ("space invader",), "crocodile": ("alligator",), "turtle": ("tortoise",),
    "kick scooter": ("scooter",), "motor scooter": ("scooter", "moped"), "auto rickshaw": ("rickshaw",),
    "wave": ("breaking wave",), "corn cob": ("corn", "maize"), "potted plant": ("houseplant",),
}  # fmt: skip

_HEADS = listed(
    """
    cat; dog; bear; buffalo; camel; chick; bird; fish; shell; beetle; flower; tree; plant; leaf; rice; apple;
    pepper; car; truck; train; boat; ship; plane; clock; moon; star; cloud; ball; shoe; boot; sandal; hat; cap;
    helmet; book; pen; box; cake; egg; house; castle; tower; glass; mug; bottle; cup; bag; phone; camera; hammer;
    bulb; heart; hand; worker; officer; drum; player; whale
    """
)
"""Last words of names that name the thing on their own."""

_KINDS = {
    "animal-mammal": ("animal",), "animal-bird": ("bird",), "animal-reptile": ("reptile",), "animal-amphibian":
    ("animal",), "animal-marine": ("sea animal",), "animal-bug": ("insect",), "plant-flower": ("flower",),
    "plant-other": ("plant",), "food-fruit": ("fruit",), "food-vegetable": ("vegetable",), "food-prepared": ("food",),
    "food-asian": ("food",), "food-sweet": ("dessert",), "drink": ("drink",), "transport-ground": ("vehicle",),
    "transport-water": ("vessel",), "transport-air": ("aircraft",), "place-building": ("building",),
    "place-religious": ("building",), "musical-instrument": ("musical instrument",), "tool": ("tool",),
    "clothing": ("clothing",), "sport": ("sports equipment",), "cat-face": ("cat",), "monkey-face": ("monkey",),
    "face-smiling": ("emoji",), "face-affection": ("emoji",), "face-tongue": ("emoji",), "face-hand": ("emoji",),
    "face-neutral-skeptical": ("emoji",), "face-sleepy": ("emoji",), "face-unwell": ("emoji",), "face-hat": ("emoji",),
    "face-glasses": ("emoji",), "face-concerned": ("emoji",), "face-negative": ("emoji",), "person": ("face",),
    "person-sport": ("athlete",), "person-role": ("person",), "person-gesture": ("person",),
}  # fmt: skip

_OTHER_KINDS = listed(
    """
    pig nose; paw prints; feather; wing; spiral shell; coral; spider web; snail; spider; scorpion; worm; microbe;
    nest with eggs;
    empty nest; mushroom; skull; bus stop sign; oil drum; fuel pump; wheel; police light; traffic light; roller skate;
    anchor; lifebuoy; airplane seat; satellite; crown; lipstick; ring; diamond; purse; handbag; clutch bag;
    shopping bags;
    backpack; prayer beads; folding hand fan; glasses; sunglasses; goggles; goal net; golf hole with a flag; ice cube;
    brick;
    rock; log; crane at a building site; chains; hook; salt shaker; canned food; fortune cookie; maple leaf;
    fallen leaf;
    leaf fluttering in wind; skateboard; kick scooter; parachute; suspension railway; cable car; gondola lift; wedding
    chapel; row of houses; flying saucer; baby bottle; rice ball; fish cake
    """
)
"""Names that the kind of their subgroup does not fit."""
