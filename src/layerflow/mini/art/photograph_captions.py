"""Captions of the photographs, written while looking at them."""

from __future__ import annotations

_TABLE = """
badlands0 dark rocks and sand dunes under a blue sky
badlands1 pale badlands under white clouds
badlands2 a yellow desert with a big rock before a storm
badlands3 red rocks in the evening sun
badlands4 dark barren mountains with yellow rocks
badlands5 a wide desert of reddish dunes in haze
badlands6 white eroded rocks under a bright sky
badlands7 red badlands at sunset
badlands8 green and brown hills under grey clouds
beach0 a ruined pier in the sea at sunset
beach1 a blue sea with waves along a coast
beach2 rocks in a wild white surf
beach3 a dark beach under a stormy sky
beach4 rocks in the surf at sunrise
beach5 a beach under a red sunset
beach6 sea rocks under yellow evening clouds
canyon0 a long cliff of dark rock under a pale sky
canyon01 barren brown hills of rock
canyon1 the orange rock towers of a canyon
canyon02 a dusty brown desert with cliffs
canyon2 the grey wall of a crater
canyon03 a stony desert on mars
canyon3 steep cliffs in morning haze
canyon04 a red desert of stones and sand
canyon4 a mountain range in pale evening light
canyon05 a flat stony desert under a grey sky
canyon5 a river in a deep brown canyon
canyon6 a blue canyon at dusk
canyon7 a bare mountain in a plain
canyon8 a canyon of orange rocks with snow
canyon9 a rocky plateau with trees under clouds
city0 a city with skyscrapers beside a bay
city1 a city beside the sea before a mountain
city2 a city skyline at night with a moon
city3 a city skyline under dark clouds
city4 a city with lit towers at night
city5 a wide city at dusk
city6 skyscrapers in thick fog
city7 a city in yellow evening haze
city8 a dark city skyline under storm clouds
city9 a tall tower over a city at night
city10 a city skyline beyond the water at dusk
city11 skyscrapers of a big city by day
city12 a city in yellow smog
desert0 a brown stony desert with a hill
desert1 a desert under clouds with sun rays
desert2 a red sand dune at night
desert3 a stony desert under an orange sky
desert4 red cliffs under a blue sky
desert5 a wide red desert under clouds
desert6 a desert with glowing rocks at dusk
desert7 smooth brown hills under a dark blue sky
dune0 grassy dunes under a blue green sky
dune1 a dry plain before rocky mountains
dune2 grey sand dunes under white clouds
dune3 dry hills before blue mountains
dune4 sand dunes behind a green plain
dune5 big sand dunes beside the sea
earthrise the earth over the moon in black space
fields0 a field before an autumn forest
fields1 a green valley with a river under clouds
fields2 dark fields under an orange evening sky
fields3 green rice fields beside a hill
fields4 red rolling hills
fields5 a field with a row of cypress trees
fields6 green hills with low clouds at sunset
fields7 golden hills with morning mist
fields8 a flat grassy moor under grey clouds
fields9 a meadow before a lonely mountain
fog0 a snowy mountain peak in the clouds
fog1 misty blue hills with forests
fog2 yellow hills in the morning mist
fog3 a grey sea under heavy clouds
fog4 green cliffs in the fog
fog5 a dark mountain above a foggy valley
fog6 a grey lake in the mist
fog7 a dark mountain in grey fog
forest0 green forested mountains under a blue sky
forest1 a green mountain slope with rocks
forest2 brown forested hills under bright clouds
forest3 a green valley between steep mountains
forest4 green mountains under blue sky and clouds
forest5 a dark fir forest in the fog
hills0 dry yellow hills
hills1 bare reddish mountains
hills2 black hills with patches of snow
hills3 a red hill in grey mist
hills4 dark hills under a red sky
lava0 a volcanic crater seen from the air
lava1 glowing lava flowing into the sea
lava2 a volcano in the morning haze
lava3 dark lava fields under a blue sky
lava4 a steaming geyser
lava6 brown volcanic craters
loc0 a furnace in a factory
loc1 the steel machines of an old factory
loc2 the engine room of an old ship
mountain0 dark mountains under heavy clouds
mountain1 a blue mountain lake with clouds
mountain2 rocky mountains under a brown sky
mountain3 white snowy peaks above the clouds
mountain4 a green ridge with low clouds
mountain5 a blue lake between mountains
mountain6 a grey rocky mountain under dark clouds
mountain7 snowy mountains with yellow grass
mountain8 a high snowy mountain in blue light
mountain9 mountains above a sea of clouds at dawn
nasa0 a launch pad in the evening
nasa1 the towers of a launch pad before an orange sky
nasa2 the fire of a starting rocket
nasa3 a rocket launch site beside the sea
nasa4 a launch site with red lights at night
nasa5 a rocket on a launch pad at night
nasa6 a rocket on a launch pad under a blue sky
nasa7 lightning over a launch pad at night
nasa8 the swirling clouds of a planet
nasa9 the blue clouds of a planet
sea0 a green shore beside grey water
sea1 a deep blue sea with waves
sea2 flat rocks in a yellow sea at dusk
sea3 waves falling into a hole at sunset
sea4 a grassy coast beside a grey sea
sea5 a beach at dusk under violet clouds
sea6 green hills high above the sea
sea7 a sandy shore at sunset
sea8 a dark cliff beside a calm sea
sea9 mountains beyond the sea in the evening sun
sky0 a green table mountain under white fog
sky1 a sea at dusk under rain clouds
sky2 a sea of clouds at sunrise
sky3 hills under an orange sunset
sky4 a lake under dark clouds
sky5 a dark sky with a glowing sunset
sky6 a volcano behind a lake in green light
sky7 brown mountains under low clouds
sky8 a sharp mountain peak under a red sky
sky9 yellow hills under dark clouds
snow0 a snowy mountain in rosy clouds
snow1 snowy mountains under a deep blue sky
snow2 a white field of ice
snow3 a glacier between mountains at dusk
snow4 a snowy mountain slope with trees
snow5 the blue front of a glacier
snow6 a snowy mountain with birds
snow7 snowy hills in pale sunlight
snow8 a snowfield between white mountains
snow9 ice floes on a dark lagoon
snow10 a grey glacier in the mist
space0 a hall with big white machines
space1 the inside of a space station
space2 a long blue tunnel with white lights
space3 a window of a space station above the earth
space4 a round hatch of a space station
space5 a space shuttle in a hangar
space6 violet panels in the dark
space7 a white room with square panels
station0 a station with yellow walls
station1 a big white rocket in a hall
station2 the dark inside of a space station
station3 a hatch with cables and bags
station4 rocket engines in a factory hall
valley0 blue mountains in haze
valley1 a pale quarry with purple flowers
valley2 a brown moor under grey clouds
valley3 brown hills under a blue sky
valley4 a brown valley under clouds
valley5 a dry lake between green hills
valley6 a wide valley between bare mountains
valley7 red sand under a green sky
valley8 dark forested mountains in haze
valley9 snowy mountains under grey clouds
water0 a turquoise lake between mountains at dusk
water1 a meadow with trees under a clear sky
water2 a pond with reeds under a blue sky
water3 a marsh with bare trees
water4 a blue lake in the evening mist
water5 a bright lake under grey clouds
water6 a violet lake at dusk
water7 a calm lake under clouds
water8 a lake between brown mountains
water9 a lake under dark clouds
"""

CAPTIONS = {
    name: f"a photo of {caption}" for name, caption in (line.split(" ", 1) for line in _TABLE.strip().splitlines())
}
"""Caption by name of file, without "@2x.jpg"."""
