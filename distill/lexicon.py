"""Hand-written word lists for the composed everyday English of `compose`."""


def items(text: str) -> list[str]:
    """Splits a list at bars and line ends."""
    return [item.strip() for item in text.replace("\n", "|").split("|") if item.strip()]


def groups(text: str) -> list[list[str]]:
    """Splits a list whose cells hold near synonyms, parted by slashes."""
    return [[item.strip() for item in line.split("/")] for line in items(text)]


def actions(text: str) -> list[tuple[list[str], list[str]]]:
    """Reads lines of the form `verb/near verb: complement; complement`."""
    out = []
    for line in text.strip().split("\n"):
        verbs, _, rest = line.partition(":")
        out.append(([v.strip() for v in verbs.split("/")], [c.strip() for c in rest.split(";") if c.strip()] or [""]))
    return out


# Each cell holds near synonyms; different cells are different people.
PEOPLE = groups("""
man/guy/gentleman/male/bloke|woman/lady/female|boy/lad/kid/schoolboy|girl/kid/schoolgirl|child/kid/youngster
toddler/small child|baby/infant|teenager/teen/adolescent|old man/elderly man/pensioner
old woman/elderly lady/grandmother
young man/guy in his twenties|young woman/young lady|person/individual|couple/pair|student/pupil/schoolchild
teacher/instructor/tutor|cyclist/biker/bike rider|chef/cook|baker/pastry chef|guitarist/musician/guitar player
drummer/percussionist|violinist/fiddler|pianist/piano player|singer/vocalist/performer|dancer/ballerina
footballer/soccer player|basketball player/athlete|tennis player|swimmer|surfer|skier|snowboarder|skateboarder/skater
runner/jogger/athlete|gymnast/acrobat|boxer/fighter|wrestler|golfer|climber/mountaineer|hiker/walker/backpacker
tourist/traveller/visitor|farmer/farm worker|gardener/landscaper|fisherman/angler|carpenter/joiner/woodworker
builder/construction worker/labourer|plumber|electrician|mechanic|painter/artist|sculptor|potter|photographer/cameraman
waiter/server|waitress/server|barista|bartender/barman|butcher|shopkeeper/shop assistant|street vendor/market trader
customer/shopper|nurse|doctor/physician/surgeon|dentist|vet|scientist/researcher|police officer/policeman/officer
firefighter/fireman|soldier/trooper|sailor|pilot|bus driver/driver|taxi driver/cabbie|postman/mail carrier
clown/entertainer|magician|juggler/street performer|busker/street musician|cowboy/rodeo rider|jockey/horse rider
bride|groom|priest/monk|nun|lifeguard|referee/umpire|goalkeeper/goalie|coach/trainer|cheerleader|actor|actress
model|reporter/journalist|librarian|secretary/office worker|businessman/executive|businesswoman|mother/mum|father/dad
grandfather/old man|brother|sister|neighbour|friend|window cleaner|hairdresser/barber/stylist|tailor|dressmaker
shepherd|beekeeper|blacksmith|welder|scuba diver/diver|kayaker/canoeist|rower|sprinter|pole vaulter|ice skater
rugby player|baseball player/batter|cricketer/batsman|hockey player|volleyball player|street artist|bird watcher
""")

# Animals; the second list adds dog and cat breeds.
ANIMALS = groups("""
dog/hound/mutt|puppy/young dog|cat/kitty/feline|kitten/young cat|labrador/retriever|terrier|spaniel|poodle
sheepdog/collie|greyhound|bulldog|husky|dachshund|tabby cat|ginger cat|horse/mare/stallion|pony/foal|donkey/mule
cow/bull
calf|goat|sheep/ewe|lamb|pig/hog|piglet|rabbit/bunny/hare|hamster/gerbil|guinea pig|squirrel|mouse/rat|hedgehog|fox
wolf/coyote|bear/grizzly bear|polar bear|panda|deer/stag|moose/elk|camel|llama/alpaca|giraffe|zebra|elephant|rhino
hippo|lion/big cat|lioness|tiger|leopard/cheetah|monkey/chimpanzee|gorilla/ape|baboon|lemur|kangaroo|koala|otter
beaver|badger|raccoon|skunk|seal/sea lion|dolphin/porpoise|whale|shark|turtle/tortoise|lizard/gecko|iguana|snake/python
crocodile/alligator|frog/toad|duck/mallard|duckling|goose|swan|chicken/hen|rooster/cockerel|chick|turkey|peacock
pigeon/dove|seagull/gull|crow/raven|sparrow|robin|parrot/macaw|owl|eagle/hawk/falcon|penguin|flamingo|pelican
heron/crane|ostrich|bat|buffalo/bison|ox
""")

COLOURS = items("red|blue|green|yellow|orange|purple|pink|brown|black|white|grey|beige|navy|turquoise|striped|checked")
FUR = items("brown|black|white|grey|tan|spotted|black and white|brown and white|ginger|dark|pale|golden|shaggy|fluffy")
SIZE = items("small|little|tiny|big|large|young|old|wet|muddy|sleepy|tired|playful|thin|fat|lone|wild|tame|friendly")
LOOKS = items("""tall|short|slim|bearded|bald|blond|dark-haired|smiling|tired|young|elderly|middle-aged|barefoot
shirtless
happy|serious|muscular|tanned|tattooed|well-dressed|curly-haired|long-haired|red-haired|cheerful|bored|excited|old""")
CLOTHES = items("""jacket|coat|shirt|T-shirt|sweater|hoodie|dress|skirt|hat|cap|helmet|scarf|uniform|suit|vest|raincoat
swimsuit|tracksuit|apron|blouse|jumper|cardigan|headscarf|wetsuit|kilt|robe|tie|bandana|costume|life jacket|baseball cap
woolly hat|straw hat|shorts|jeans|gloves|boots|sunglasses|backpack""")
NUMBERS = items(
    "two|two|two|three|three|four|five|six|several|a few|some|many|a group of|a couple of|a crowd of|a pair of"
)

PLACES_OUT = groups("""
on a beach/by the sea/on the sand/at the seaside|in a crowded market/at a busy market/among market stalls
beside a lake/by a lake/next to a lake|on a snowy slope/on a snowy hill/in the snow|in a park/in the park/on the grass
in a field/in a grassy field/in a meadow|in the street/on the street/on a city street/in the road
on the pavement/on a sidewalk
in a forest/in the woods/among the trees|near a fountain/beside a fountain|in a garden/in a backyard/on a lawn
on a bridge/across a bridge|by a river/on a river bank/near a stream|on a mountain/on a mountain top/near a cliff
in the desert/on a sand dune|on a farm/in a farmyard/near a barn|outside a shop/in front of a shop/outside a store
outside a church/near a church|in a car park/in a parking lot|at a bus stop/near a bus stop
on a train platform/at a railway station
in a playground/near the swings|in a stadium/in front of a crowd|on a football pitch/on a soccer field
on a pier/on a jetty/at the docks
on a boat/on the deck of a boat|in a harbour/near some boats|in the rain/on a rainy day|in the sun/on a sunny day
at night/in the dark|at sunset/at dusk|at dawn/early in the morning|under a tree/in the shade of a tree
on a bench/on a park bench
on a wooden fence/near a fence|on a rock/on some rocks|on a rooftop/on the roof|on a balcony
on the front steps/on a doorstep
on a dirt road/on a country lane|in a village/in a small town|in the city/in a busy city centre|in a vineyard
in an orchard
at a campsite/near a tent|near a campfire/beside a fire|at a festival/at a fair|in a parade|at a zoo|by a waterfall
in a canyon|on a trail/along a path|in a square/in a town square|by a brick wall/against a wall
behind a car/near a parked car
on a race track|on a golf course|in a skate park|on an icy pond/on the ice|in tall grass|in shallow water
in front of a castle
""")
PLACES_IN = groups("""
in a kitchen/in the kitchen/at a kitchen counter|in a living room/in the lounge/in a sitting room
in a bedroom/in the bedroom
in a bathroom|at a table/at a wooden table|on a sofa/on a couch|on the floor/on a carpet|in an office/at a desk
in a classroom/at school
in a library|in a restaurant/in a cafe/at a restaurant|in a pub/in a bar|in a gym/at the gym|in a workshop/in a garage
in a studio|on a stage/on stage|in a hospital|in a laboratory/in a lab|in a supermarket/in a grocery store
in a shopping centre/in a mall
in a museum/in an art gallery|in a church|in a theatre|in a factory|in a warehouse|in a hall/in a large hall
on a staircase/on the stairs
by a window/near a window|in front of a mirror|on a train|on a bus|in a car|at an airport|in a hotel lobby
in a small room
in a basement|in an attic|in a hallway/in a corridor|in a greenhouse|at a party|at a wedding|at a conference|in a tent
""")

# Food and indoor things done to objects: these take a passive.
DO_IN = actions("""
slice/cut/chop: an onion; a tomato; a carrot; a lemon; some bread
slice/cut/chop: a cucumber; an apple; a pepper; some mushrooms; a loaf
peel/pare: a potato; an orange; an apple; some carrots; a banana; a prawn; a mango; some garlic
fry/cook: an egg; some bacon; some fish; some onions; a steak; some prawns; some pancakes; some rice
boil/cook: some pasta; an egg; some potatoes; some noodles; some rice; some vegetables
grill/barbecue/roast: a chicken; some sausages; some corn; some burgers; some meat; a fish
bake/make: a cake; some bread; a pie; some biscuits; a pizza; some muffins; a tart
stir/mix: a pot of soup; some batter; a bowl of sauce; some paint; a stew; some eggs; a cup of tea
pour/tip: oil into a pan; milk into a glass; water into a bowl
pour/tip: batter onto a tray; coffee into a cup; sauce over the pasta
add/put: salt to a pot; sugar to some tea; butter to a pan; spices to a curry; cheese to a sandwich; flour to a bowl
knead/roll out: some dough; the pastry; a ball of dough
spread/smear: butter on a slice of bread; jam on toast; icing on a cake; cheese on a cracker
crack/break: an egg into a bowl; some eggs; a coconut; a nut
grate/shred: some cheese; a carrot; some cabbage; some ginger
whisk/beat/whip: some cream; some eggs; the batter
mash/crush: some potatoes; a banana; some garlic; an avocado
drain/rinse/wash: some pasta; some rice; some lettuce; some spinach; some grapes
eat/munch/devour: a sandwich; an apple; some pizza; a bowl of cereal
eat/munch/devour: some noodles; an ice cream; a slice of cake; a banana
drink/sip: a glass of water; a cup of coffee; some juice; a beer; some wine; a mug of tea; a milkshake
wash/clean/scrub: the dishes; a plate; a window; the floor; a frying pan; some clothes; a sink
wipe/clean/dust: a table; a shelf; a counter; a mirror; a blackboard
dry/wipe: a glass; some plates; the dishes
sweep/mop/vacuum: the floor; the kitchen; a hallway; the carpet
iron/fold: a shirt; some clothes; a towel; some sheets; a tablecloth
play/practise: the flute; the guitar; the piano; the violin; the drums
play/practise: the trumpet; the cello; the harp; the accordion; a keyboard
strum/tune/hold: a guitar; a ukulele; a banjo
lift/raise: some weights; a barbell; a dumbbell; a heavy box
read/study/look through: a book; a newspaper; a magazine; a map; a letter; a menu; some notes; a recipe
write/scribble: a letter; some notes; a list; a message; a poem
draw/sketch: a portrait; a face; a picture of a horse; a landscape; a cartoon
paint/decorate: a picture; a wall; a ceiling; a bowl; a door; an egg
open/unwrap: a present; a box; a parcel; a tin; a bottle; a drawer; a cupboard
close/shut: a door; a window; a drawer; a suitcase; a laptop
sew/mend/stitch: a dress; a button on a shirt; some curtains; a quilt
knit/crochet: a scarf; a sweater; some socks; a blanket
brush/comb: a doll's hair; some long hair; a wig; a dog's coat
put on/apply: some make-up; some lipstick; some nail varnish; some sun cream
put on/pull on: a coat; some gloves; a pair of shoes; a helmet; a hat
take off/remove: a jacket; a hat; a pair of boots; a mask; some glasses
fix/repair/mend: a radio; a tap; a computer; a clock; a lamp; a broken chair
assemble/build/put together: a bookcase; a model plane; a toy castle; a desk; a puzzle
use/operate: a laptop; a sewing machine; a microscope; a drill; a camera; a mobile phone; a calculator
hold/carry: a baby; a tray; a cup; a microphone; a stack of books; a bag; a vase; a bunch of flowers
saw/cut/sand: a plank; a piece of wood; a log; a board
hammer/drive: a nail into a board; some nails into a wall
shuffle/deal: a deck of cards; some cards
light/blow out: a candle; some candles; a match
wrap/pack: a present; a parcel; a suitcase; some glasses
wash/feed/bathe: a baby; a puppy; a small dog; a kitten
mould/shape: a clay pot; a bowl; some clay; a vase
type/print: a letter; a report; an email
arrange/water: some flowers; a house plant; some roses
cut/trim: some paper; a piece of cloth; a ribbon; some hair; some fabric
season/marinate: a steak; some chicken; a fish; some meat
pick up/lift/grab: a phone; a spoon; a toy; a towel; a cushion
drop/throw down: a glass; a plate; a book; some keys
""")
DO_OUT = actions("""
ride/race: a horse; a bicycle; a motorbike; a skateboard; a scooter; a camel; an elephant; a unicycle; a mountain bike
drive/steer: a car; a tractor; a bus; a truck; a van; a golf cart; a lorry
push/shove: a pram; a wheelbarrow; a trolley; a broken car; a bike; a cart
pull/drag: a sledge; a suitcase; a rope; a cart; a fishing net; a log
kick/boot: a football; a ball; a stone; a can; a rugby ball
throw/toss/hurl: a ball; a stick; a frisbee; a snowball; a stone into the water; a javelin; a net; a rope
catch/grab: a ball; a fish; a frisbee; a butterfly; a big wave
hit/strike: a tennis ball; a golf ball; a baseball; a punchbag; a drum
fly/launch: a kite; a drone; a model aeroplane; a small plane
paddle/row: a canoe; a kayak; a boat; a raft
sail/steer: a yacht; a small boat; a dinghy
plant/water: some flowers; a tree; some tomatoes; some seeds; a rose bush
pick/gather/collect: some apples; some berries; some mushrooms; some flowers; some shells; some grapes
dig/fill: a hole; a ditch; a trench
rake/sweep up: some leaves; the garden path; some grass cuttings
mow/cut: the lawn; the grass; a field
cut down/chop down: a tree; a hedge; some bushes
chop/split/stack: some firewood; a log; some wood
wash/polish/clean: a car; a motorbike; a van; a boat; a horse
feed/watch: some ducks; some pigeons; a goat; some chickens; a giraffe; some swans; a squirrel
walk/lead: a dog; some dogs; a pony; a goat; a cow
milk/feed: a cow; some goats
groom/brush/saddle: a horse; a pony; a donkey
photograph/take a picture of/film: a statue; a bird; the sunset; a castle; a waterfall; an old church; some fireworks
sell/buy: some fruit; some flowers; some fish; some balloons
sell/buy: some ice cream; some hats; some vegetables; some newspapers
carry/bring: a basket of fruit; a ladder; a surfboard; a bucket of water; a flag; some shopping bags; a bundle of sticks
climb/scale: a ladder; a tree; a rock face; a rope; a wall; a fence
build/make: a sandcastle; a snowman; a fire; a brick wall; a tree house; a wooden shed
paint/repair/fix: a fence; a roof; a boat; a gate; a bicycle
wave/hold up: a flag; a banner; a placard; a white handkerchief
blow/pop: some bubbles; some balloons
cross/leave: the street; a river; a bridge; a railway line
jump over/leap over: a fence; a puddle; a hurdle; a stream; a log
shoot/fire/aim: an arrow; a rifle; a basketball; a water pistol; a cannon
load/unload: a truck; a van; a boat; a cart; some boxes from a lorry
fix/change/inflate: a tyre; a flat tyre; a bicycle wheel
pitch/put up/take down: a tent; an umbrella; a market stall
repair/dry/mend: a fishing net; a sail; a wooden boat
clear/shovel: some snow; a driveway; some gravel
sign/hand out: some autographs; some leaflets; some posters
""")
# Actions without an object that could become a passive subject.
BE_ANY = actions("""
run/sprint/jog/race: through the park; along the beach; down the road
run/sprint/jog/race: up some stairs; around a track; across a field; in a marathon
walk/stroll/wander: along the shore; down the street; through a forest
walk/stroll/wander: past a shop; across a bridge; up a hill; between parked cars
jump/leap/dive: into a pool; off a cliff; into a lake; off a wall; over a puddle; from a rock
jump/bounce: on a trampoline; on a bed; up and down; into the air
swim/float: in a pool; in the sea; under water; across a lake; in a river
dance/spin: on a stage; in the rain; with a partner; to loud music; in the street
sing/perform: a song; into a microphone; on a stage; in a choir; for a small crowd
sit/rest/relax: on a bench; under a tree; in a chair; on a rock; by a window; at a table; on a sofa; on the grass
stand/wait: at a bus stop; in a queue; in a doorway; on a balcony; at a corner; near a statue; on a ladder
lie/sunbathe/doze: on a towel; in a hammock; on the grass; on a sun lounger; on the sand
sleep/nap/snooze: on a sofa; in a bed; in a tent; on a train; in a car seat; under a blanket
laugh/smile/grin: at a joke; at the camera; in a cafe
talk/chat/speak: on the phone; in a cafe; to a reporter; to a large audience; about the weather
look/stare/gaze: out of a window; through a telescope; at a painting
look/stare/gaze: at the sea; into a mirror; at a phone; at the stars
point/gesture: at a map; at the sky; at a screen; towards a boat
climb/clamber/scramble: up a cliff; up a tree; over a fence; onto a roof; up a rope; out of a pool
ski/slide/snowboard: down a slope; down a mountain; over a jump; through fresh snow
skate/glide: on the ice; along a path; around a rink
skateboard/roll: down a ramp; along a railing; down a hill
surf/ride: on a big wave; towards the shore; in rough water
cycle/pedal/ride: along a trail; through the city; up a steep hill
cycle/pedal/ride: past a church; along the coast; through a muddy field
fish/angle: in a lake; from a pier; from a small boat; in a frozen river
play/have fun: in the sand; with a toy train; on a swing; in a fountain; with a puppy; in the snow; with building blocks
play/compete: in a football match; in a tennis tournament; at cards; in a chess match; in a basketball game
work/type: on a laptop; at a computer; at a desk
exercise/stretch/train: in a gym; on a mat; on the beach; before a race
do/practise: yoga; press-ups; a handstand; a cartwheel; karate; a magic trick
perform/do: a trick on a bike; a backflip; a somersault; a stunt on a motorbike
kneel/crouch/bend down: in the mud; beside a child; near a flower bed; on the floor
cheer/clap/applaud: at a concert; in a stadium; after a goal; at the finish line
cry/weep: in a cot; on a bench; at a funeral
shout/yell: at the referee; into a megaphone; across the street
fall/slip/tumble: off a bike; off a horse; on the ice; into the water; down the stairs
hang/swing: from a bar; from a rope; from a branch
hike/trek: up a mountain; through a valley; in the hills; through the jungle
camp/rest: by a river; near a glacier; in the woods
shop/look: for shoes; for vegetables; for a gift; for a new coat
eat/have lunch/dine: in a restaurant; at a long table; by the sea; on a bench
board/get on: a train; a bus; a ferry; a plane
get off/step off: a train; a bus; a plane; a boat
lean/rest: against a wall; on a railing; against a car; over a balcony
meditate/pray: in a temple; in a church; on a hill
shave/wash: in front of a mirror; in a bathroom; with cold water
""")
ANIMAL_DO = actions("""
run/race/dash/gallop: through the snow; across a field; along the beach
run/race/dash/gallop: through tall grass; around the garden; through shallow water
walk/wander/trot: along a path; across the road; through a stream; past a barn; along a wall
jump/leap: over a log; over a fence; into a lake; off a dock; onto a sofa; through a hoop; into the air
sleep/nap/rest: on a sofa; in a basket; under a tree; on a bed; in the sun; on a window sill
sit/stand: on a wooden fence; on a wall; in the snow; by a door; on a rug; near a bowl; in a box
lie/doze: on the grass; on a carpet; in the shade; in the mud; on a blanket
swim/paddle: in a pond; across a river; in the sea; in a pool
play/roll: in the mud; in the snow; with a ball; on a lawn; in the leaves
look/stare/peer: at the camera; out of a window; at a bird; into a mirror; through a fence
hide/crouch: under a bed; behind a bush; in a cardboard box; in long grass; under a car
climb/scramble: up a tree; over a rock; onto a roof; up some stairs
graze/feed: in a field; on a hillside; near a fence; by a river
wait/stand: outside a shop; at a gate; by the road
""")
ANIMAL_OBJ = actions("""
chase/follow/run after: a ball; a stick; a rabbit; a frisbee; a cat; some birds; a toy car; a bicycle
chew/bite/gnaw: a bone; a stick; a shoe; a toy; a rope; a branch
eat/nibble/munch: some grass; a carrot; some leaves; an apple; some hay; some bread; a fish; some seeds
drink/lap up: some milk; some water from a bowl; some water from a puddle
carry/hold/fetch: a stick; a tennis ball; a newspaper; a branch; a toy; a fish
catch/grab: a frisbee; a ball; a mouse; a fish; an insect
sniff/lick: a flower; a bowl; a spoon; a shoe; an ice cream; a tree
pull/drag: a sledge; a cart; a carriage; a blanket; a plough
watch/look at: a bird; a television; some fish; a butterfly; a passing car
dig/guard: a hole; a burrow
""")
# Subject and object are both people or animals, so that the roles can be swapped.
INTERACT = groups("""
chase/run after/follow|push/shove|hug/embrace|kiss|help/assist|photograph/take a picture of|wave at/greet
talk to/speak to/chat with|teach/instruct|watch/look at|carry/lift|feed|wash|point at|shout at/yell at|dance with
walk towards/approach|tickle|throw a ball to|hand a cup to/give a cup to|sit next to/sit beside|stand behind|interview
splash|pull|laugh at|race against/compete with|serve|draw/sketch|kick|tackle|hold hands with|whisper to|listen to
play with
""")
THINGS = groups("""
bus/coach|car/saloon car|truck/lorry|van|motorbike/motorcycle|bicycle/bike|train/steam train|tram|boat/rowing boat
sailing boat/yacht
ferry/ship|aeroplane/plane/jet|helicopter|tractor|taxi/cab|fire engine|scooter|hot-air balloon|bench|statue|clock
lamp/desk lamp
chair|armchair|table|wardrobe|bookshelf/bookcase|bed|mirror|vase|teapot|kettle|umbrella|suitcase|backpack|laptop
telephone
camera|television|guitar|piano|violin|drum|kite|football|tennis racket|surfboard|skateboard|bucket|ladder|basket
bowl|plate|mug
bottle|fridge/refrigerator|sink|oven/stove|toilet|bathtub|traffic light|road sign/street sign|fire hydrant
parking meter|tent
church|house/cottage|tower|castle|barn|bridge|lighthouse|windmill|fountain|tree|flower|cactus|snowman|scarecrow|doll
teddy bear|toy train|candle|book|newspaper|hat|shoe/boot|bag/handbag|pillow|rug|towel|fence|gate|door|window
fountain pen
""")
THING_LOOKS = items("""old|new|shiny|rusty|broken|wooden|metal|plastic|small|large|empty|dirty|colourful|antique
modern|tall
red|blue|green|yellow|black|white|brown|grey|orange|purple|pink|silver|tiny|huge|dusty""")
RELATIONS = groups("""next to/beside/near|in front of|behind|on top of|under/below|parked next to|standing against
leaning against
left beside|between some trees and|seen from behind|across from/opposite""")
FOODS = groups("""pasta/spaghetti|fried rice|salad/mixed salad|soup|chips/French fries|fruit/mixed fruit|noodles
curry|roast chicken
grilled fish|scrambled eggs|pancakes|sushi|steak and vegetables|meatballs|cheese and crackers|sandwiches
biscuits/cookies
chocolate cake|apple pie|ice cream|strawberries|oranges|bananas|broccoli and carrots|mashed potatoes|beans on toast
tacos|doughnuts""")
DISHES = items("plate|bowl|tray|table full|dish|box|platter|pile|small portion|basket|tin")
ROOMS = groups("""kitchen|bathroom|bedroom|living room/lounge|dining room|office|classroom|hotel room
cafe/coffee shop|library|attic
garage|hallway|waiting room|conference room|nursery|conservatory|church hall""")
FEATURES = items("""white cabinets|a large window|wooden floors|a black sofa|two beds|a glass table|tiled walls
a stone fireplace
a round table|blue walls|a piano in the corner|a ceiling fan|red curtains|old furniture|a big mirror|rows of chairs
a white fridge|a marble sink|shelves full of books|plants on the sill|a flat-screen television|a patterned rug

three lamps|a long wooden table|a computer on the desk|paintings on the wall|a high ceiling|a chandelier
a brick wall""")

IRREGULAR = {
    line.split()[0]: (line.split()[1], line.split()[2])
    for line in items("""cut cut cut|make made made|put put put|break broke broken|beat beat beaten|eat ate eaten
drink drank drunk
read read read|write wrote written|draw drew drawn|shut shut shut|take took taken|build built built|hold held held
drive drove driven|deal dealt dealt|light lit lit|blow blew blown|feed fed fed|ride rode ridden|throw threw thrown
catch caught caught|hit hit hit|strike struck struck|fly flew flown|dig dug dug|lead led led|sell sold sold
buy bought bought
bring brought brought|leave left left|leap leapt leapt|shoot shot shot|run ran run|swim swam swum|spin spun spun
sing sang sung
sit sat sat|stand stood stood|lie lay lain|sleep slept slept|speak spoke spoken|slide slid slid|have had had|do did done
kneel knelt knelt|bend bent bent|weep wept wept|fall fell fallen|hang hung hung|swing swung swung|get got got
hide hid hidden
bite bit bitten|grind ground ground|give gave given|teach taught taught|spread spread spread|sew sewed sewn
see saw seen|know knew known
think thought thought|say said said|tell told told|go went gone|come came come|win won won|lose lost lost
pay paid paid|meet met met
find found found|keep kept kept|send sent sent|lend lent lent|understand understood understood
forget forgot forgotten|grow grew grown
sweep swept swept|saw sawed sawn|mow mowed mown|let let let|rise rose risen|choose chose chosen
forgive forgave forgiven|quit quit quit
lay laid laid|hear heard heard|steal stole stolen|wear wore worn|wake woke woken|begin began begun|set set set
overtake overtook overtaken|mislead misled misled|split split split|ring rang rung""")
}
