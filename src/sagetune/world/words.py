"""Word lists of the world; :mod:`sagetune.world.values` deals every word to one split."""

from __future__ import annotations

FIRST_NAMES = """Maria Omar Lena Kofi Ines Hugo Priya Tomas Aiko Bruno Clara Dmitri Elif Farid Greta Hanna Ivan
Jonas Keiko Liam Mona Nadia Oscar Paula Quinn Rosa Samir Tara Ugo Vera Wanda Xavier Yusuf Zoe Amara Boris Celia
Diego Emma Felix Gina Hassan Irene Jamal Karin Luca Marta Nils Olga Pablo Rania Sven Thea Uma Viktor Willa Yara Zane
Anouk Bela Cyrus Dalia Ezra Fiona Gustav Heidi Idris June Kamal Leila Mateo Nora Otto Petra Rafael Selma Tobias
Ursula Vikram Wendy Yves Zara Alma Bjorn Carmen Dario Esther Franco Gloria Henrik Ilse Joel Katya Lars Mila Nico
Odile Pavel Ramona Stefan Tilda Uri Vesna Walter Yoko"""
TOPICS = """budget dentist yoga piano garden physics chess pottery marketing design tennis salsa history safety
sales poetry robotics wedding roof insurance nutrition camera kitchen painting school swimming choir legal launch
hiring travel tax sailing guitar fitness biology sewing security parking language judo orchid cycling radio theatre
museum drone debate kayak algebra opera visa jazz grammar climbing archery geology heating karate cinema"""
OCCASIONS = """review lesson meeting class workshop checkup rehearsal briefing session seminar call dinner training
tour lunch interview practice appointment talk visit planning evening course fair drill"""
VERBS = """call bring check clean order paint return measure collect fix wash wrap charge empty feed iron label pack
polish renew scan sort stamp store sweep test trim unlock water weigh build carry cover dust fold gather hide
inspect lift mend open park print rinse sharpen"""
THINGS = """plumber keys printer curtains invoice fence ladder bicycle parcel laptop garage carpet battery ferns
kettle tickets suitcase projector mirror freezer passport tractor piano lamp blanket camera jacket mower trophy
basket cabinet chimney drill engine flute gutter helmet hammock jar kennel lantern mailbox notebook oven pillow
quilt radio saddle tent umbrella vase wagon window zipper armchair bucket canvas doorbell easel fountain"""
LOOKS = """blue wooden red silver large green glass small black cotton copper folding white leather round steel
yellow woollen ceramic grey tall plastic pink striped golden linen square heavy purple bamboo portable orange marble
velvet slim brown rubber velour compact bronze"""
GOODS = """kettle chair lamp rug teapot desk backpack mug pillow clock shelf blender scarf tent toaster bench candle
fan guitar heater jug keyboard ladle mirror notebook oven plate radio stool tray umbrella vase wallet apron basket
cushion drawer easel frame grinder hammer iron jar kite lantern mattress napkin opener pan quilt ruler speaker towel
urn vacuum whisk bowl cabinet dish flask"""
DRAFTS = """old new final draft backup march april shared signed spring summer weekly short long client team first
second late early"""
FILES = """budget.pdf menu.txt photo.jpg plan.csv song.mp3 letter.pdf recipe.txt map.jpg sales.csv podcast.mp3
lease.pdf diary.txt logo.jpg stock.csv lecture.mp3 poster.pdf speech.txt sunset.jpg grades.csv anthem.mp3
invoice.pdf script.txt garden.jpg survey.csv interview.mp3 manual.pdf poem.txt portrait.jpg wages.csv jingle.mp3
thesis.pdf notes.txt skyline.jpg orders.csv waltz.mp3"""
FOLDERS = """archive work recipes music taxes photos school projects travel receipts books designs health letters
garden homework legal maps movies papers personal press quotes records reports samples scripts sketches slides
sports statements stories studio surveys templates theory tickets tools uploads videos"""
CITIES = """Lisbon Oslo Madrid Vienna Prague Dublin Athens Warsaw Zurich Milan Porto Lyon Geneva Munich Hamburg
Seville Naples Turin Bergen Malmo Tallinn Riga Vilnius Krakow Gdansk Budapest Bucharest Sofia Belgrade Zagreb Split
Valletta Nicosia Izmir Ankara Tbilisi Yerevan Baku Tokyo Osaka Kyoto Seoul Busan Taipei Manila Hanoi Bangkok Jakarta
Singapore Delhi Mumbai Chennai Nairobi Accra Lagos Dakar Cairo Tunis Rabat Quito Lima Bogota Santiago Montevideo
Havana Denver Boston Chicago Seattle Toronto Montreal Perth Sydney Auckland Basel"""
HOTELS = """Lumen Aurora Meridian Cedar Harbour Orchid Summit Lagoon Willow Castle Beacon Maple Coral Falcon Garnet
Horizon Ivory Jasmine Kestrel Lotus Marina Nova Opal Pavilion Quartz Riviera Saffron Terrace Unity Verdant Windmill
Zenith Amber Bellevue Citadel"""
COMPANIES = """Fern Delta Orion Birch Cobalt Juniper Vertex Harbor Pioneer Summit Nimbus Copper Atlas Willow Zephyr
Lunar Granite Meadow Quasar Raven Silver Tundra Umbra Vista Wren Canyon Ember Falcon Glacier Heron"""
TRADES = (
    "Energy Water Gym Telecom Insurance Bakery Dental Rentals Media Cleaning Florist Garage Books Theatre Logistics"
)
PURPOSES = """holiday rent emergency wedding tuition travel garden repair pension music car house gift medical
family camera sports winter business school boat studio charity moving baby kitchen tools pets bike energy"""
POTS = "fund account savings reserve wallet pot budget deposit purse chest stash vault kitty ledger basket"
TAGS = """urgent ideas finance family recipes travel health research shopping hobby later private quotes goals music
school garden review drafts meetings books sport pets cooking design legal history career movies projects"""
MAIL_HOSTS = "oak river acorn north lake cloud stone maple ocean field pine harbor meadow ember glade"
PLAIN = """apple bridge candle desert eagle forest garden hammer island jacket kitten lemon mountain needle orange
pencil queen rabbit silver turtle umbrella valley window yellow zebra anchor basket castle dragon engine feather
guitar harbor insect jungle kettle ladder mirror napkin ocean palace quartz ribbon saddle temple uncle violin walnut
yogurt zipper acorn butter copper dolphin elbow falcon ginger hazel ivory jewel kernel lantern magnet nectar oyster
parrot quiver rocket salmon thunder urchin velvet whistle almond beacon cactus dagger ember fossil goblet helmet
iguana jasmine koala lizard marble nutmeg olive pepper raven shovel tunnel vessel willow"""
