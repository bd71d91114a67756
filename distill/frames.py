"""Sentence frames for `compose`: blank lines part families, `!` marks an opposite or a neighbouring topic.

A `{slot}` is filled from SLOTS or by a rule of `compose`; `{slot>ed}`, `>s`, `>ing`, `>en` inflect its first word,
`>pl` makes it plural, and a final digit tells two fillings of the same slot apart.
"""

from distill.lexicon import groups


def _frames(text: str) -> list[tuple[list[str], list[str]]]:
    out = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        out.append(([x for x in lines if x[0] != "!"], [x[1:].strip() for x in lines if x[0] == "!"]))
    return out


SLOTS: dict[str, list[list[str]]] = {
    key.strip(" -\n"): groups(values.replace("\n ", ""))
    for key, _, values in (
        line.partition(":")
        for line in """
-disaster: earthquake/quake|flood/flash flood|landslide/mudslide|storm/violent storm|hurricane/cyclone|wildfire/
 forest fire|avalanche|tornado|heatwave|typhoon
-accident: bus crash/coach crash|train crash/rail crash|plane crash/air crash|ferry sinking|factory fire/
 warehouse blaze|mine collapse|gas explosion/gas blast|bridge collapse|motorway pile-up|helicopter crash|
 nightclub fire
-attack: car bomb/bombing|suicide attack/suicide bombing|rocket attack|air strike/air raid|drone strike|shooting/
 gun attack|knife attack|grenade attack|ambush
-victims: people|soldiers/troops|civilians|passengers|miners|police officers|children|workers|tourists|migrants|
 students|fishermen
-office: president|prime minister/premier|foreign minister|finance minister|defence minister|interior minister|
 opposition leader|chancellor|health minister|mayor|governor|king|ambassador
-body: parliament|government|central bank|supreme court|senate|cabinet|opposition|election commission|
 security council|trade ministry
-policy: tax cuts|pension reform|a new trade deal|a ceasefire|tougher sanctions|an arms embargo|
 higher interest rates|a climate bill|a smoking ban|a minimum wage rise|the new constitution|education reform|
 a border treaty|nuclear talks|an asylum law|health spending|the annual budget
-crime: murder/killing|fraud|bribery/corruption|armed robbery|kidnapping|tax evasion|drug smuggling/
 drug trafficking|arson|spying|manslaughter|theft|money laundering
-accused: banker|teacher|former minister|businessman|actor|police officer|doctor|pop star|football coach|judge|
 nurse|bus driver|teenager|soldier|priest
-sector: oil/energy|car/automotive|airline|software|drug/pharmaceutical|steel|retail|food|telecoms|insurance|chip|
 shipping|mining|media|bank
-market: shares/stocks|oil prices/crude prices|gold prices|house prices|bond yields|food prices|car sales|
 retail sales|exports|wheat prices|wages|factory orders
-up: rise/climb/go up|jump/surge/soar
-down: fall/drop/go down|tumble/slump/plunge
-reason: weak demand|fears of a recession|strong earnings|hopes of a rate cut|rising costs|an oil glut|
 trade tensions|a supply shortage|a surprise profit warning|good jobs data|bad weather|a strong dollar
-sport: football|tennis|rugby|cricket|basketball|hockey|handball|volleyball|baseball|cycling|swimming|rowing
-round: final|semi-final|quarter-final|opening match|second round|friendly|qualifier|third test
-illness: flu/influenza|measles|cholera|malaria|bird flu|diabetes|asthma|heart disease|lung cancer|dementia|
 depression|tuberculosis
-food: coffee|chocolate|red meat|green tea|olive oil|fish|nuts|red wine|sugar|salt|broccoli|fast food|dairy products
-discovery: a distant planet|a new species of frog|a giant dinosaur|a lost city|ancient tools|water on the Moon|
 a rare comet|a deep-sea shark|a Roman mosaic|a new particle|a mammoth skeleton|a sunken warship
-weather: heavy rain|snow|strong winds|thick fog|freezing temperatures|hail|thunderstorms|record heat|drought
-celeb: actor|singer|film director|model|novelist|comedian|TV presenter|rapper|painter|chef
-event: divorce|engagement|new album|baby daughter|world tour|retirement|memoir|illness|drug arrest|wedding|
 film role
-agency: local media|police|state television|officials|witnesses|a spokesman|rescue workers|the interior ministry|
 a news agency|hospital sources
-sayverb: said|reported|confirmed|announced
-howto: clean a cast iron pan|remove a stain from a carpet/get a stain out of a rug|fix a leaking tap/
 repair a dripping tap|change a bicycle tyre|sharpen a kitchen knife|fold a fitted sheet|tie a bow tie|
 write a cover letter/write a job application|learn to swim/learn swimming|sleep better/get better sleep|
 lose weight/slim down|save money/cut my spending|train a puppy/teach a puppy|get rid of ants/get rid of insects|
 stop snoring|make new friends|quit smoking/give up smoking|paint a wooden door|hang a heavy picture|
 descale a kettle|unblock a sink/clear a blocked drain|back up my photos/save my pictures|speed up an old laptop/
 make an old computer faster|reset a forgotten password|delete an email account|print double-sided|
 set up a home network|block spam calls|negotiate a higher salary/ask for a pay rise|improve my handwriting|
 remember names|talk to a shy child|deal with a noisy neighbour|apologise to a friend|apply for a passport/
 get a passport|pack light for a long trip|avoid jet lag|find cheap flights/find low-cost flights|learn the guitar|
 speak better French/improve my French|start running|treat a burn|lower my blood pressure|read a map
-dish: bread|rice|a chocolate cake|scrambled eggs|tomato soup|pancakes|a roast chicken|pizza dough|mashed potatoes|
 jam|custard|a beef stew|mayonnaise|lentil curry|meringue|cheese sauce|yoghurt|shortbread|risotto|gravy
-ingredient: butter|margarine|baking powder|cornflour|cream|buttermilk|egg whites|honey|brown sugar|white wine|
 lemon juice|fresh basil|dried yeast|garlic|vinegar|olive oil|coconut milk
-foodfault: too salty|too dry|soggy in the middle|burnt on the outside|too runny|too sweet|lumpy|tough|bitter|flat
-plant: roses|tomatoes|a fig tree|lavender|basil|orchids|strawberries|a lemon tree|potatoes|tulips|a cactus|mint|
 blueberries|an apple tree|courgettes|ivy|garlic|sunflowers|a bonsai
-plantfault: turning yellow|dropping leaves|covered in white spots|not flowering|growing too slowly|wilting|
 eaten by slugs|going brown at the tips
-device: laptop|phone|printer|router|tablet|washing machine|television|dishwasher|car|camera|heating|fridge|
 keyboard|computer|smart watch|doorbell
-devfault: does not turn on/will not start|makes a strange noise/is very noisy|keeps overheating/gets too hot|
 is very slow|keeps switching itself off|shows an error message|loses its connection|smells of burning|
 freezes after an update|has stopped working/is broken
-animalq: cat|dog|rabbit|hamster|parrot|goldfish|horse|tortoise|chicken|guinea pig|kitten|puppy
-canfood: chocolate|raw carrots|cheese|milk|grapes|bread|onions|peanut butter|cooked rice|bananas|eggs|apples|
 raw fish|avocado
-symptom: a headache|a sore throat|back pain|a dry cough|a stiff neck|itchy eyes|a swollen knee|trouble sleeping|
 a rash|heartburn|toothache|cramp
-remedy: drink more water|see a doctor/visit your GP|rest for a few days|take a painkiller|go for a walk|
 avoid caffeine|apply an ice pack|cut down on sugar|use a humidifier|do some gentle stretching
-money: pension|credit card|mortgage|savings account|student loan|tax return|car insurance|rent|deposit|pay slip|
 overdraft|inheritance
-moneyact: pay off early|cancel|claim|share with my partner|transfer abroad|fix for five years|put off|reduce|
 check online|split
-kin: boyfriend|girlfriend|husband|wife|best friend|sister|brother|boss|colleague|flatmate|mother-in-law|
 teenage son|daughter|neighbour|father|landlord
-conduct: never listens to me/ignores what I say|forgot my birthday|wants to move abroad|will not talk to me/
 refuses to speak to me|is always late/is never on time|lied about money|drinks too much|takes credit for my work|
 wants another child|borrowed money and never paid it back|reads my messages|works all weekend
-wordpair: "affect" and "effect"|"fewer" and "less"|"who" and "whom"|"lie" and "lay"|"big" and "large"|
 "a lot" and "many"|"say" and "tell"|"since" and "for"|"shall" and "will"|"bring" and "take"|
 "farther" and "further"|"its" and "it's"|"sensible" and "sensitive"|"historic" and "historical"|"lend" and "borrow"
-longq: useful/helpful|expensive/costly|comfortable|interesting/fascinating|beautiful/attractive|dangerous/
 hazardous|important/significant|popular|reliable/dependable|difficult|boring/tedious|practical|modern|valuable|
 unusual
-thing: umbrella|bicycle|sofa|book|map|guitar|watch|car|house|garden|camera|coat|suitcase|bridge|school|hospital|
 road|shop|kitchen|library|report|letter|film|meal|song|painting|holiday|job|computer|ticket
-quality: good/excellent/great|bad/poor/awful|cheap/inexpensive|expensive/costly/dear|useful/helpful|useless/
 pointless|beautiful/lovely|ugly|difficult/hard/tough|easy/simple|boring/dull|interesting/fascinating|dangerous/
 risky|safe|strange/odd|important/crucial|small/little|large/big/huge|slow|fast/quick|noisy/loud|quiet|old|new
-degree: very|really|rather|quite|extremely|a little|not very|too|so|not at all|fairly|surprisingly
-group: committee/panel|minister|opposition|union|board|court|council|mayor|company|police|newspaper|commission|
 senator|ambassador|teachers|farmers|students|employers|governor|bishop|voters|banks|auditors|rebels|delegates|
 scientists
-tverb: criticise/condemn/attack|praise/applaud|support/back|ignore/disregard|question|thank|blame/accuse|warn/
 caution|sue|defend|mislead|replace|trust|persuade/convince|invite|advise|betray/deceive|help/assist|reject/dismiss|
 follow|welcome|fear|respect/admire|consult|outvote
-iverb: resign/step down|agree/give in|leave early/go home early|apologise/say sorry|win/succeed|lose/fail|laugh|
 cry/weep|arrive late|sleep badly|shout|smile|hesitate|wait patiently|complain|change the subject|fall asleep|
 call a taxi|tell the truth|miss the train|forget the keys|lock the door|pay the bill|read the letter|
 answer the phone|sell the house|quit the job|lose the map|break the window|find the money|open the box|
 write a novel|learn Spanish|buy a boat|cook dinner
-issue: public transport|climate change/global warming|immigration|free speech|unemployment|rural schools|
 the national debt|farm subsidies|data protection|child poverty|fishing rights|nuclear power|house building|
 animal welfare|tuition fees|air pollution|gun control|foreign aid|food safety|road safety|the internal market|
 human rights|hospital waiting times|youth crime
-believe: I believe/I think/In my view,|I am convinced|It is clear to me|I doubt|We all know/Everyone knows|
 Nobody can deny|I do not think|Some people say|My group feels
-must: must/have to|should/ought to|could|must not|cannot|will
-party: the tenant|the landlord|the seller|the buyer|the supplier|the employer|the employee|the lender|the borrower|
 the licensee|the contractor|the client|either party|the insurer
-duty: pay the rent/pay the fee|give written notice|return the deposit|repair any damage/make good any damage|
 keep records|deliver the goods/supply the products|insure the property|share confidential information|
 end this agreement/terminate this contract|transfer the licence|inspect the premises|bear the costs|
 accept the invoice|hire subcontractors
-limit: within {n} days|by the end of the month|without delay|before delivery|at its own expense|in advance|
 upon request|unless otherwise agreed|in writing|after {n} weeks
-motion: move/travel/go|walk/step|run|speak/talk|laugh|look|eat|fall|breathe|hold|turn|push|pull|cut|write|think|
 shout|jump|sleep|wait
-manner: quickly/fast/rapidly|slowly|quietly/softly|loudly|with great effort|without care/carelessly|in secret/
 secretly|on foot|by accident|with both hands|for a long time|again and again|in a circle|with pleasure|in fear|
 towards the ground|against resistance|in short bursts
-genus: vehicle/conveyance|tool/implement|person/someone|building/structure|animal/creature|plant|container/vessel|
 garment/piece of clothing|machine/device|place/location|document/paper|piece of furniture|weapon|
 musical instrument|boat|game|substance|toy
-diff: carries people or goods/transports passengers or freight|is used in the kitchen|lives in water/
 is found in water|protects the head|has four wheels|is worn in winter|gives off light|keeps things cold|
 grows in dry soil|is made of wood|is played by two people|measures time|holds liquids|cuts hard materials|can fly/
 is able to fly|is kept for its milk|burns easily|brings bad luck|is used by children|moves over snow|
 makes a loud sound|is owned by the state
-time: yesterday|last night|this morning|on {day}|last week|two years ago|in {month}|after lunch|before dawn|
 at midnight|every {day}|in {year}|tonight|once again|all day
-habit: make tea|walk the dog|read the paper|go for a swim|visit my grandmother|water the plants|bake bread|
 ring my sister|take the bus to work|do the crossword|watch the news|feed the cats|play cards with the neighbours|
 iron my shirts|cycle to the station|buy fresh fish|tidy the garage|listen to the radio|practise the piano|
 clean the windows
-abstract: patience|freedom|trust|courage|history|success|friendship|money|silence|memory|luck|hope|knowledge|time|
 beauty|power|truth|habit|fear|work
-mood: happy/glad/pleased|sad/unhappy|angry/furious|tired/exhausted|nervous/anxious|proud|jealous/envious|bored|
 calm/relaxed|surprised/astonished|lonely|grateful/thankful|afraid/scared|disappointed
-cause: the train was late|the letter never came|it rained all day|nobody remembered the date|the dog ran away|
 the boiler broke|the exam was easy|the team lost|the baby slept all night|the price went up|the music stopped|
 a stranger smiled|the shop was shut|the results came early
-profession: botanist|historian|solicitor|composer|geologist|midwife|architect|bookbinder|surgeon|cartographer|
 organist|translator|beekeeper|potter|philosopher|engineer|poet|admiral
-landmark: harbour/port|bridge|cathedral/minster|castle|railway station|lighthouse|museum|university|airport|market|
 river|valley|lake|canal|abbey|observatory|football club|choir|brewery|botanical garden|town hall
-title: Dr|Professor|Sir|Captain|Lady|Mrs|Mr|Ms|Judge|Sister|Colonel|Reverend|Bishop|Inspector
-glue: near|north of|opposite|on the road to|just outside|not far from|between here and|west of|
 across the water from|twinned with
-used: bicycle/bike|sofa/couch|guitar|watch|car|house|camera|coat|suitcase|computer/laptop|painting|van|table|piano|
 tent|boat|lamp|printer|carpet/rug|motorbike|fridge|bookcase|desk|pram
""".strip().split("\n-")
    )
}

HEADLINES = _frames("""
{disaster} kills {n} in {place}
{n} dead after {disaster} in {place}
{disaster} leaves {n} dead in {place}
{place} {disaster} death toll reaches {n}
At least {n} people were killed when a {disaster} hit {place} on {day}, {agency} {sayverb}.
A {disaster} has killed at least {n} people and left thousands homeless in {place}.
!No deaths reported after {disaster} in {place}
!{place} {disaster}: hundreds rescued as aid arrives
!{place} prepares for {disaster}

{accident} in {place} kills {n} {victims}
{n} {victims} die in {place} {accident}
{n} {victims} were killed in a {accident} near {place} on {day}, {agency} {sayverb}.
{place} {accident} leaves {n} {victims} dead
!{n} {victims} survive {accident} in {place}
!{n} {victims} hurt in {place} {accident}
!Inquiry opens into {accident} near {place}

{attack} kills {n} {victims} in {place}
{n} {victims} killed in {place} {attack}
A {attack} killed {n} {victims} and wounded {n2} others in {place} on {day}, {agency} {sayverb}.
{place}: {n} {victims} dead in {attack}
!{n} {victims} wounded in {place} {attack}
!Police foil {attack} in {place}
!Group claims responsibility for {attack} in {place}

{place} {office} resigns over {crime} claims
{office} of {place} steps down amid {crime} allegations
The {office} of {place}, {name}, resigned on {day} after claims of {crime}.
{place} {office} quits
!{place} {office} refuses to resign over {crime} claims
!{place} names {name} as new {office}
!{place} {office} denies {crime}

{place} {body} backs {policy}
{body} in {place} votes for {policy}
The {body} of {place} approved {policy} on {day}, {agency} {sayverb}.
{place} approves {policy}
!{place} {body} rejects {policy}
!Thousands protest against {policy} in {place}
!{place} {body} delays vote on {policy}

{name} wins {place} election
{name} elected {office} of {place}
{name} won {pct} of the vote in the {place} election, official results showed on {day}.
{place} votes: victory for {name}
!{name} loses {place} election
!{name} concedes defeat in {place}
!{place} election result disputed by {name}

{place} and {place2} agree on {policy}
{place}, {place2} reach deal on {policy}
{place} and {place2} signed an agreement on {policy} on {day}, officials said.
{place} {office} meets {place2} counterpart to discuss {policy}
!{place} and {place2} fail to agree on {policy}
!{place} expels {place2} envoy
!{place} accuses {place2} of breaking deal on {policy}

{place} {office} visits {place2} for talks
{office} of {place} arrives in {place2}
The {office} of {place} arrived in {place2} on {day} for talks on {policy}.
!{place} {office} cancels visit to {place2}
!{place2} {office} visits {place} for talks
!{place} {office} leaves {place2} without a deal

{accused} jailed for {n} years for {crime} in {place}
{place} {accused} gets {n} years for {crime}
A {accused} was sentenced to {n} years in prison for {crime} by a court in {place} on {day}.
{accused} sent to prison over {crime}
!{accused} cleared of {crime} in {place}
!{accused} charged with {crime} in {place}
!{accused} appeals against {crime} conviction

{company} shares {up} {pct} on {reason}
Shares in {company} {up} {pct}
Shares in the {sector} group {company} {up>ed} {pct} on {day} on {reason}.
{company} stock {up>s} after results
!{company} shares {down} {pct} on {reason}
!{company} shares little changed

{market} {down} in {place} on {reason}
{place} {market} {down} {pct}
In {place}, {market} {down>ed} by {pct} in {month}, hurt by {reason}, data showed on {day}.
!{market} {up} in {place} on {reason}
!{place} {market} {up} {pct}
!{market} steady in {place}

{company} to buy {company2} for {cash}
{company} agrees {cash} takeover of {company2}
The {sector} group {company} said on {day} it would buy its rival {company2} for {cash}.
{company} and {company2} announce merger
!{company2} rejects {cash} bid from {company}
!{company2} to buy {company} for {cash}
!{company} drops {cash} bid for {company2}

{company} to cut {big} jobs
{company} lays off {big} workers in {place}
The {sector} company {company} plans to cut {big} jobs in {place}, its chief executive {name} said on {day}.
{big} jobs to go at {company}
!{company} to hire {big} workers in {place}
!Union fights {company} job cuts

{company} profit {up>s} {pct}
{company} reports {pct} rise in profit
Net profit at {company} {up>ed} {pct} to {cash} in the third quarter, helped by {reason}.
!{company} profit {down>s} {pct}
!{company} makes loss of {cash}
!{company} misses profit forecast

{place} beat {place2} {score} in {sport} {round}
{place2} lose {sport} {round} to {place}
{name} led {place} to a {score} win over {place2} in the {sport} {round} on {day}.
{place} through after {score} win
!{place2} beat {place} {score} in {sport} {round}
!{place} and {place2} draw in {sport} {round}
!{place} captain {name} injured before {round}

Study links {food} to {illness}
{food} may raise risk of {illness}, study says
People who consume a lot of {food} may be more likely to develop {illness}, scientists in {place} {sayverb}.
{food} tied to {illness}
!{food} may protect against {illness}, study says
!No link between {food} and {illness}, say researchers
!{food} sales fall in {place}

{place} reports {n} new cases of {illness}
{n} new {illness} cases in {place}
Health officials in {place} confirmed {n} new cases of {illness} on {day}.
{illness} spreads in {place}
!{place} declared free of {illness}
!{n} die of {illness} in {place}
!New drug offers hope for {illness} patients

Scientists find {discovery} near {place}
{discovery} found by {place} scientists
Scientists from {place} said on {day} they had found {discovery}, reports {agency}.
Researchers discover {discovery}
!Scientists doubt claim about {discovery}
!{place} museum to show {discovery}

{weather} hits {place}
{place} faces {weather}
{weather} hit much of {place} on {day}, closing schools and delaying {n} flights.
{weather} causes chaos in {place}
!{weather} expected to ease in {place}
!Sunny weekend ahead for {place}

{celeb} {name} announces {event}
{name} confirms {event}
The {celeb} {name}, {age}, announced her {event} in {place} on {day}.
{name} opens up about {event}
!{celeb} {name} denies rumours of {event}
!{celeb} {name} dies aged {age}

{place} police arrest {n} over {crime}
{n} held in {place} {crime} case
Police in {place} arrested {n} people on suspicion of {crime} on {day}.
!{place} police release {n} {crime} suspects
!Hunt for {crime} suspects in {place}
""")

QUESTIONS = _frames("""
How do I {howto}?
What is the best way to {howto}?
Can anyone tell me how to {howto}?
Any tips on how to {howto}?
I need to {howto}. Where do I start?
How can I {howto} without spending much money?
!Is it hard to {howto}?
!Why would anyone want to {howto}?
!It is easy to {howto} if you take your time.
!You should ask an expert before you try to {howto}.

How do I {howto}?
How should I {howto}?
How long does it take to {howto}?
!How do I {howto2}?
!What do I need to {howto}?
!I would not try to {howto} on my own.

How do you make {dish} without {ingredient}?
Can I make {dish} without {ingredient}?
What can I use instead of {ingredient} in {dish}?
Is there a substitute for {ingredient} when making {dish}?
!Yes, you can use {ingredient2} instead of {ingredient}.
!How much {ingredient} do I need for {dish}?
!I would not leave the {ingredient} out.

Why is my {food} cake {foodfault}?
What makes a {food} cake {foodfault}?
My {food} cake always turns out {foodfault}. What am I doing wrong?
!How do I stop my {food} cake from becoming {foodfault}?
!Bake it for {n} minutes less and add some {ingredient}.

How long should I cook {dish}?
How many minutes does it take to cook {dish}?
What is the right cooking time for {dish}?
!At what temperature should I cook {dish}?
!How long can I keep {dish} in the fridge?
!Can I freeze {dish}?
!It depends on the oven, but about {n} minutes is enough for {dish}.

When should I plant {plant}?
What is the best month to plant {plant}?
Is {month} too late to plant {plant}?
!Can {plant} grow indoors?
!How often should I water {plant}?
!In our climate you should plant {plant} in {month}.

How often do you water {plant}?
How much water do I give {plant}?
Do {plant>pl} need a lot of water?
!How much sun do I give {plant}?
!What can I do about {plant} {plantfault}?
!You are probably watering too much, so wait {n} days.

My {device} {devfault}. What can I do?
What should I do if my {device} {devfault}?
Why is it that my {device} {devfault}?
Help! The {device} {devfault}.
!Is it worth repairing a {device} that {devfault}?
!Which {device} should I buy?
!Try unplugging the {device} and wait {n} minutes before you switch it on again.
!If the {device} {devfault}, take it back to the shop.

Can my {animalq} eat {canfood}?
Is it safe to give {canfood} to a {animalq}?
Is it bad for a {animalq} to eat {canfood}?
Are {animalq>pl} allowed to have {canfood}?
!No, {canfood} can make a {animalq} ill.
!Yes, a {animalq} can eat {canfood} in small amounts.
!How often should I feed my {animalq}?

What helps with {symptom}?
How do I get rid of {symptom}?
What can I do about {symptom}?
I have had {symptom} for {n} days. Any advice?
!You should {remedy} if you have {symptom}.
!What causes {symptom}?
!Can stress cause {symptom}?
!With {symptom} I would {remedy}, but it depends on how you feel.

Should I {remedy} if I have {symptom}?
Does it help to {remedy} when you have {symptom}?
I have {symptom}. Is it a good idea to {remedy}?
!That is not a good idea because it can make {symptom} worse.
!Yes, you can {remedy} as long as it is not serious.

Is it worth visiting {place} in {month}?
Is {month} a good time to go to {place}?
Should I go to {place} in {month}?
What is {place} like in {month}?
!How many days do I need in {place}?
!Do I need a visa for {place}?
!I would avoid {place} in {month} because of {weather}.
!{place} is lovely in {month}, but book early.

What is the cheapest way to get from {place} to {place2}?
How can I travel from {place} to {place2} on a budget?
Is there a direct train from {place} to {place2}?
!How long is the flight from {place} to {place2}?
!What is the cheapest way to get from {place2} to {place}?
!You can take a night bus from {place} to {place2} for about {n} euros.

Can I {moneyact} my {money}?
Is it possible to {moneyact} a {money}?
What happens if I {moneyact} my {money}?
Should I {moneyact} my {money} or wait until {month}?
!It depends on the terms of your {money}.
!How does a {money} work?
!Yes, you can {moneyact} your {money}, but there may be a fee.

My {kin} {conduct}. What should I do?
What would you do if your {kin} {conduct}?
How do I handle it when my {kin} {conduct}?
Is it normal that my {kin} {conduct}?
!I would talk to your {kin} openly about it.
!You should leave your {kin} if nothing changes.
!I get on very well with my {kin}.

What is the difference between {wordpair}?
How do I know when to use {wordpair}?
Can you explain {wordpair}?
When do you use {wordpair} in English?
!Do {wordpair} mean the same thing?
!In informal speech many people mix up {wordpair}.
!Native speakers rarely notice the difference between {wordpair}.

Is it {quality} to buy a used {used}?
Would you buy a second-hand {used}?
Where can I sell an old {used}?
How much should I pay for a used {used}?
!I would always buy a new {used}.
!Never pay more than {n} pounds for a used {used}.

How do I tell my {kin} that I want to {iverb}?
What is the best way to tell my {kin} I am going to {iverb}?
I want to {iverb}. How do I say so to my {kin}?
!My {kin} wants to {iverb}. Should I worry?
!Do not tell your {kin} anything until you {iverb}.

Who is {name}?
What is {name} known for?
What do you know about {name} from {place}?
!Where does {name} live?
!{name} is a {profession} from {place}.

Why do people {motion} {manner}?
What makes someone {motion} {manner}?
Is it healthy to {motion} {manner}?
!How can I learn to {motion} {manner}?
!Most people {motion} {manner} when they are {mood}.
""")

STATEMENTS = _frames("""
The {group} {tverb>ed} the {group2}.
The {group2} was {tverb>en} by the {group}.
It was the {group} that {tverb>ed} the {group2}.
The {group} {tverb>ed} the {group2} {time}.
!The {group2} {tverb>ed} the {group}.
!The {group} did not {tverb} the {group2}.
!The {group} never {tverb>ed} the {group2} over {issue}.
!Neither the {group} nor the {group2} said anything about {issue}.

{believe} {issue} {must} be at the heart of this debate.
{issue} {must} be at the centre of this debate, in my opinion.
Mr President, {issue} {must} be taken seriously.
We {must} do more about {issue}.
!{issue} is not the main question today.
!We have already done enough about {issue}.
!I voted against the report because it says nothing about {issue}.

Madam President, I would like to thank the rapporteur for her work on {issue}.
I wish to congratulate the rapporteur on the report on {issue}.
My group welcomes the {group}'s proposal on {issue}.
!My group cannot support the {group}'s proposal on {issue}.
!I regret that the {group} has ignored {issue}.
!This House has discussed {issue} for {n} years without result.

{party} shall {duty} {limit}.
{party} must {duty} {limit}.
It is the duty of {party} to {duty} {limit}.
{party} agrees to {duty} {limit}.
!{party} shall not {duty} {limit}.
!{party} may {duty} {limit}.
!{party2} shall {duty} {limit}.
!{party} is not required to {duty}.

{first} {iverb>ed} {time}.
I think {first} {iverb>ed} {time}.
{time}, {first} {iverb>ed}.
{first} was the one who {iverb>ed}.
!{first} did not {iverb} {time}.
!{first2} {iverb>ed} {time}.
!{first} almost {iverb>ed}, but then {first2} came in.
!{first} wanted to {iverb} but could not.

{first} {iverb>ed} because {cause}.
Because {cause}, {first} {iverb>ed}.
{cause>cap}, so {first} {iverb>ed}.
{first} {iverb>ed}. The reason was simple: {cause}.
!{first} {iverb>ed} although {cause}.
!{first} did not {iverb} even though {cause}.
!{cause>cap}, but {first} did not mind.

"Did {first} {iverb}?" "I think so."
I think {first} {iverb>ed}.
I am fairly sure that {first} {iverb>ed}.
{first} {iverb>ed}, as far as I know.
!"Did {first} {iverb}?" "No, not yet."
!I do not think {first} will {iverb}.
!Did {first} {iverb}?
!I hope {first} does not {iverb}.

{first} was {degree} {mood} because {cause}.
{first} felt {degree} {mood} when {cause}.
{cause>cap} and it made {first} {mood}.
!{first} was not {mood} at all.
!{first} was {mood2} because {cause}.
!{first} and {first2} were both {mood}.

The {thing} is {degree} {quality}.
This is a {quality} {thing}.
I find the {thing} {degree} {quality}.
What a {quality} {thing}!
In {first}'s view the {thing} was {degree} {quality}.
!The {thing} is not {quality}.
!The {thing} is {degree} {quality2}.
!The {thing2} is {degree} {quality}.
!I do not find this {thing} {quality}.

The {thing} is {quality} but the {thing2} is {quality2}.
The {thing2} is {quality2}, whereas the {thing} is {quality}.
While the {thing} is {quality}, the {thing2} is {quality2}.
!The {thing} is {quality2} but the {thing2} is {quality}.
!Both the {thing} and the {thing2} are {quality}.
!Neither the {thing} nor the {thing2} is {quality}.

The {thing} is more {longq} than the {thing2}.
The {thing2} is less {longq} than the {thing}.
!The {thing2} is more {longq} than the {thing}.
!The {thing} is as {longq} as the {thing2}.

I usually {habit} {hour}.
Most days I {habit} {hour}.
{hour>cap} I normally {habit}.
It is my habit to {habit} {hour}.
!I never {habit} {hour}.
!{first} usually {habit>s} {hour}.
!I usually {habit2} {hour}.
!I used to {habit}, but not any more.

{first} and {first2} {habit} together {hour}.
{first2} and {first} {habit} {hour}.
{first} likes to {habit} with {first2}.
!{first} does not like to {habit} with {first2}.
!{first} and {first2} never {habit}.
!{first2} asked whether {first} could {habit}.

A {genus} that {diff}.
A kind of {genus} which {diff}.
Any {genus} that {diff}, usually a {quality} one.
A {quality} {genus} that {diff}.
!A {genus2} that {diff}.
!A {genus} that {diff2}.
!Something that {diff}.

To {motion} {manner}.
To {motion} in a way that is done {manner}.
{motion>ing} {manner}.
The act of {motion>ing} {manner}.
What you do when you {motion} {manner}.
!To {motion} {manner2}.
!To {motion2} {manner}.
!To stop {motion>ing} {manner}.
!One who {motion>s} {manner}.

{first} told {first2} about the {thing}.
{first2} heard about the {thing} from {first}.
{first2} was told about the {thing} by {first}.
!{first2} told {first} about the {thing}.
!{first} did not tell {first2} about the {thing}.
!{first} told {first2} about the {thing2}.

{first} bought a {quality} {used} from {first2} for {n} pounds.
{first2} sold {first} a {quality} {used} for {n} pounds.
{first} paid {first2} {n} pounds for a {used}.
!{first} sold {first2} a {quality} {used} for {n} pounds.
!{first} refused to buy the {used}.
!{first} bought a {used2} from {first2}.

{abstract} is more important than {abstract2}.
{abstract} matters more than {abstract2}.
For most people {abstract} counts for more than {abstract2}.
!{abstract2} is more important than {abstract}.
!{abstract} is worth nothing without {abstract2}.
!Neither {abstract} nor {abstract2} can be bought.

Sales of the {sector} division {up>ed} by {pct} to {cash} in {year}.
In {year}, {sector} sales {up>ed} {pct} to {cash}.
The {sector} business grew by {pct} in {year}.
!Sales of the {sector} division {down>ed} by {pct} in {year}.
!The {sector} division made a loss of {cash} in {year}.
!We expect {sector} sales to stay flat.

I have lived in {place} since {year}.
I moved to {place} in {year}.
{place} has been my home since {year}.
!I left {place} in {year}.
!I have never lived in {place}.
!My parents moved to {place2} in {year}.

"Where are you going?" "To {place}, with {first}."
I am going to {place} with {first}.
{first} and I are off to {place}.
!I am not going to {place} with {first}.
!{first} is going to {place} without me.
!"Where have you been?" "In {place}, with {first}."

There were {n} people at the meeting about {issue}.
{n} people came to the meeting on {issue}.
About {n} residents attended a meeting on {issue} {time}.
!Hardly anyone came to the meeting about {issue}.
!The meeting about {issue} was cancelled.
!There were {n2} people at the meeting about {issue}.
""")

MENTIONS = _frames("""
{place} {landmark}
the {landmark} of {place}
the {landmark} in {place}
a {landmark} {glue} {place}
!{place2} {landmark}
!{place} {landmark2}

{surname} v. {surname2}
{surname} versus {surname2}
the case of {surname} against {surname2}
!{surname2} v. {surname}
!{surname} v. {surname3}
!{title} {surname} and {title2} {surname2}

the {word} {landmark} {glue} {place}
{word} {landmark}, {place}
the {landmark} called {word}
!the {word2} {landmark} {glue} {place}
!the {word} {landmark2} {glue} {place2}

{title} {name}, {profession}
the {profession} {name}
{name} ({profession}, {place})
{name}, a {profession} from {place}
!{title} {name2}, {profession}
!{name}, {profession2}

{word}, {word2} and {word3}
{word3}, {word}, {word2}
{word2} or {word}
!{word}, {word4} and {word3}
!{word4}, {word5}

{first}, {first2}, {first3} and {first4}
{first4}, {first3}, {first2}, {first}
{first} and {first2} with {first3}
!{first} and {first5}
!{first5}, {first6}

from {place} to {place2} via {place3}
{place}, {place3}, {place2}
a journey between {place} and {place2}
!from {place2} to {place}
!from {place} to {place4}

{word} {word2}
the {word2} {word}
{word} and {word2} in {place}
what {first} calls {word} {word2}
!{word} {word3}
!{word3} {word2}

the meaning of "{word}"
what does {word} mean
{word}: definition and use
{word} (noun)
!what does {word2} mean
!{word} or {word2}

{first} of {place}
{first} from {place}
{first}, born in {place} in {year}
!{first2} of {place}
!{first} of {place2}

{company} of {place}
{company} ({place} office)
{place}-based {company}
!{company2} of {place}
!{company} of {place2}

{first}'s {thing} in {place}
the {thing} that {first} left in {place}
{place}: {first} and the {thing}
!{first}'s {thing2} in {place}
!{first2}'s {thing} in {place}

{word} {thing}
a {thing} made by {word} {glue} {place}
{thing>pl} and {word}
!{word2} {thing}
!{word} {thing2}

{first}, {place}, {word}
{word}, {first}, {place}
{place} {word} {first}
{first}, {place}, {word}, {word2}, {first2}, {place2}
!{word}, {first3}, {place3}
!{word3}

{surname} & {surname2} ({year})
{surname} and {surname2}, {year}
as shown by {surname} and {surname2} in {year}
!{surname} & {surname2} ({year2})
!{surname3} ({year})
""")

CONTEXTS: list[str] = (
    """
I live in {place}.|Hi all, this is {first} from {place}.|My {kin} says it does not matter.
I only have {n} minutes a day.
I have never done this before.|I am {age} and new to this.|We are a family of five in {place}.
My {kin} told me to ask here.
I read about it last {day}.|It has to be done by {day}.|I have about {n} pounds to spend.|Please keep it simple.
Thanks in advance!
I have already tried it {n} times.|My {kin} and I cannot agree.|It started in {month}.
I asked in {place}, but nobody knew.
I am asking for my {kin}.|My {animalq} is no help.|I moved here from {place} in {year}.|I work as a {profession}.
Just curious.
Last {month} it all went wrong.|I only need it for my {used}.|My {device} is too old to look it up.|It makes me {mood}.
I would like to know before {month}.|I have {symptom}, too.|A friend in {place} did it in {n} days.
""".strip()
    .replace("\n", "|")
    .split("|")
)
