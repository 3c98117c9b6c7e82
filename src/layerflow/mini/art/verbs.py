"""Verbs of animated emoji, chosen by looking at all of them. Labels of people stand under "person"."""

from __future__ import annotations

import re


def verb_of(label: str) -> str:
    """Return the present participle for the motion of an animated emoji, "" if none fits."""
    plain = re.sub(r"^(man|woman|men|women)\b", "person", label)
    for key in (label, plain, plain.removeprefix("person ")):
        if key in _BY_LABEL:
            return _BY_LABEL[key]
    for verb, ending in _BY_ENDING.items():
        if label.endswith(ending):
            return verb
    return ""


_TABLE = """
walking: dog; guide dog; cat; black cat; tiger; leopard; zebra; deer; bison; ox; water buffalo; cow; pig; ewe; camel;
  two-hump camel; llama; giraffe; elephant; mammoth; rhinoceros; hippopotamus; hedgehog; skunk; badger; sauropod; T-Rex;
  turkey; penguin; ant; spider; cockroach; person walking; person with white cane; rooster; gorilla; mouse; rat
trotting: poodle
galloping: horse; horse racing
butting: ram
grazing: goat
hopping: rabbit; kangaroo; front-facing baby chick; cricket
jumping: monkey; dolphin
sitting and looking about: service dog; orangutan
looking around: fox; raccoon; bear; polar bear; koala; panda; hamster; mouse face; dog face; cat face; tiger face;
  cow face; pig face; horse face; unicorn; boar; rabbit face; monkey face; owl; parrot; baby chick; duck; frog; eyes;
  eye; dodo; flamingo; bird; peacock; dragon face
growling: wolf
roaring: lion
sniffing: pig nose
eating: chipmunk; beaver
swinging from a branch: sloth
floating on its back: otter
pecking: chicken
hatching: hatching chick
flying: bat; dove; eagle; honeybee; mosquito; airplane; small airplane; helicopter; flying saucer; rocket; comet; fairy;
  person in suit levitating; shooting star
flapping its wings: butterfly; fly; beetle; lady beetle
swimming: swan; fish; tropical fish; shark; whale; octopus; squid; shrimp; merperson; merman; mermaid; person swimming
spouting water: spouting whale
puffing up: blowfish
lying about: seal
crawling: crocodile; lizard; snail; bug; worm; lobster; scorpion; crab
hiding in its shell: turtle
hissing: snake
winding: dragon
wriggling: microbe
turning around: spiral shell; ringed planet; star; snowflake; cyclone; compass; hundred points
wilting: wilted flower
flickering: birthday cake; fire; heart on fire; jack-o-lantern
steaming: hot beverage; teacup without handle
popping: bottle with popping cork; party popper
being emptied: beer mug; tropical drink; cocktail glass; tumbler glass
splashing: fountain
turning: ferris wheel; barber pole; revolving hearts
running up and down: roller coaster
driving: locomotive; light rail; monorail; tram car; bus; trolleybus; minibus; ambulance; fire engine; police car;
  oncoming police car; taxi; oncoming taxi; automobile; oncoming automobile; sport utility vehicle; delivery truck;
  articulated lorry; tractor; racing car; motorcycle; auto rickshaw; person in motorized wheelchair;
  person in manual wheelchair
rolling: roller skate
gliding: suspension railway; mountain cableway; aerial tramway; parachute
sailing: sailboat; speedboat; passenger ship; ferry; motor boat; ship
being paddled: canoe
taking off: airplane departure
landing: airplane arrival
tilting back: seat
running out: hourglass done; hourglass not done
ticking: watch; stopwatch; timer clock; mantelpiece clock; three o\u2019clock
ringing: alarm clock; telephone receiver
shining: sun; sun with face; glowing star; sparkling heart; crystal ball; sun behind cloud; sun behind small cloud;
  sun behind large cloud; Christmas tree; rainbow
drifting: cloud; fog
raining: cloud with rain; sun behind rain cloud; umbrella with rain drops
snowing: cloud with snow; snowman
flashing: cloud with lightning; cloud with lightning and rain; high voltage; camera with flash
whirling: tornado
blowing: wind face
opening: closed umbrella; umbrella; love letter
swaying: snowman without snow; teddy bear; hut; wood; spider web; musical notes
dripping: droplet
breaking: water wave; broken heart
exploding: bomb; exploding head
waving: chequered flag; triangular flag; black flag; white flag; pirate flag; waving hand; person raising hand
turning its pages: spiral calendar
clinking: clinking beer mugs; clinking glasses
beating: beating heart; red heart; orange heart; yellow heart; green heart; blue heart; purple heart; brown heart;
  black heart; white heart; anatomical heart
growing: growing heart
bouncing: two hearts; heart with ribbon; heart with arrow; mending heart; goblin; ogre
laughing: skull; skull and crossbones; pile of poo; clown face; ghost; face with tears of joy; cat with tears of joy;
  rolling on the floor laughing; grinning face; grinning face with big eyes; grinning face with smiling eyes;
  beaming face with smiling eyes; grinning squinting face; Santa Claus; Mrs. Claus; Mx Claus; jack-o-lantern
smiling: slightly smiling face; smiling face; smiling face with smiling eyes; smiling face with halo;
  smiling face with hearts; smiling face with heart-eyes; smiling face with sunglasses; smiling face with open hands;
  grinning cat; grinning cat with smiling eyes; smiling cat with heart-eyes; baby angel; new moon face;
  first quarter moon face; last quarter moon face; full moon face; star-struck; cowboy hat face; nerd face
blinking: alien; robot; baby; child; boy; girl; person; person: blond hair; person: beard; person: red hair;
  person: curly hair; person: white hair; person: bald; older person; old man; old woman; neutral face;
  face without mouth; flushed face; hushed face; confused face; face in clouds; disguised face; person wearing turban;
  person with skullcap; pleading face; person with headscarf
dancing: alien monster; people with bunny ears; men with bunny ears; women with bunny ears; person dancing
winking: winking face; winking face with tongue
kissing: face blowing a kiss; kissing face; kissing face with closed eyes; kissing face with smiling eyes; kissing cat
crying: smiling face with tear; sad but relieved face; crying face; loudly crying face; crying cat
sweating: person in steamy room; grinning face with sweat; anxious face with sweat; downcast face with sweat; hot face
sticking its tongue out: face with tongue; squinting face with tongue; zany face; tongue; money-mouth face
licking its lips: face savoring food
giggling: face with hand over mouth
shushing: shushing face
thinking: thinking face; face with monocle; face with raised eyebrow
rolling its eyes: face with rolling eyes
breathing out: face exhaling; face with steam from nose; lungs
sleeping: sleeping face; sleepy face; person in bed; ZZZ
drooling: drooling face
being sick: face vomiting; nauseated face; face with thermometer; face with medical mask; face with head-bandage
sneezing: sneezing face
shivering: cold face; grimacing face; fearful face
swaying dizzily: woozy face; face with spiral eyes; face with crossed-out eyes
celebrating: partying face
frowning: slightly frowning face; frowning face; frowning face with open mouth; worried face; anguished face;
  disappointed face; pensive face; person frowning; confounded face; persevering face; unamused face
gasping: face with open mouth; astonished face
screaming: face screaming in fear; weary face; weary cat; tired face
yawning: yawning face
sighing: relieved face
smirking: smirking face; cat with wry smile; smiling face with horns
raging: enraged face; angry face; face with symbols on mouth; angry face with horns
growing its nose: lying face
opening and closing: zipper-mouth face; mouth; pinching hand; pinched fingers; heart hands; open hands
nodding: upside-down face
hiding its face: see-no-evil monkey; speak-no-evil monkey; hear-no-evil monkey
pointing: backhand index pointing left; backhand index pointing right; backhand index pointing up;
  backhand index pointing down; index pointing up
punching: oncoming fist; raised fist
clapping: clapping hands
shaking: handshake; maracas
praying: folded hands
writing: writing hand
painting nails: nail polish
taking a picture: selfie
flexing: flexed biceps; mechanical arm
bending: leg; foot; mechanical leg
wiggling: ear; ear with hearing aid; nose; tooth; bone; brain
pouting: person pouting
crossing the arms: person gesturing NO
raising the arms: person gesturing OK
holding out a hand: person tipping hand
bowing: person bowing
facepalming: person facepalming
shrugging: person shrugging
holding a hammer: judge
working: mechanic; factory worker; technologist; scientist; farmer; cook; artist
looking about: student; teacher; office worker; pilot; astronaut; firefighter; police officer; guard; ninja;
  construction worker; prince; princess; person in tuxedo; person with veil; pregnant woman; superhero; supervillain;
  elf; health worker; person standing; bust in silhouette; busts in silhouette
singing: singer
searching: detective
rocking a baby: breast-feeding; person feeding baby
waving a wand: mage
hiding behind a cape: vampire
floating: genie
reaching out: zombie
enjoying a massage: person getting massage
having a haircut: person getting haircut
running: person running
climbing: person climbing
fencing: person fencing
skiing: skier
snowboarding: snowboarder
golfing: person golfing
surfing: person surfing
rowing a boat: person rowing boat
bouncing a ball: person bouncing ball
lifting weights: person lifting weights
biking: person biking; person mountain biking
doing a cartwheel: person cartwheeling
wrestling: people wrestling; men wrestling; women wrestling
playing handball: person playing handball
juggling: person juggling
meditating: person in lotus position
taking a bath: person taking bath
speaking: speaking head
hugging: people hugging
walking along: footprints; paw prints
"""

_BY_LABEL: dict[str, str] = {}
for _line in re.sub(r"\n  ", " ", _TABLE.strip()).splitlines():
    _verb, _, _labels = _line.partition(": ")
    for _label in _labels.split("; "):
        _BY_LABEL.setdefault(_label.strip(), _verb)

_BY_ENDING = {"looking about": (" worker", " officer"), "blinking": (" hair",), "frowning": (" frowning",)}
