"""The tables of the demo world: everything the model is meant to know by heart.

Rows are written as 'a|b|c' so that a table stays readable; rows() splits them.
"""

from __future__ import annotations


def rows(text: str) -> list[list[str]]:
    """Split a block of 'a|b|c' lines into lists of fields."""
    return [[field.strip() for field in line.split("|")] for line in text.strip().splitlines()]


def pairs(text: str) -> list[tuple[str, str]]:
    """Split 'a=b, c=d' into pairs."""
    return [tuple(part.strip().split("=", 1)) for part in text.replace("\n", " ").split(",")]  # type: ignore[misc]


def words(text: str) -> list[str]:
    """Split a block of words on white space."""
    return text.split()


# country | capital | continent | main language | ISO code (for the flag emoji)
COUNTRIES = rows("""
France|Paris|Europe|French|FR
Germany|Berlin|Europe|German|DE
Italy|Rome|Europe|Italian|IT
Spain|Madrid|Europe|Spanish|ES
Portugal|Lisbon|Europe|Portuguese|PT
the United Kingdom|London|Europe|English|GB
Ireland|Dublin|Europe|English|IE
the Netherlands|Amsterdam|Europe|Dutch|NL
Belgium|Brussels|Europe|Dutch|BE
Luxembourg|Luxembourg City|Europe|Luxembourgish|LU
Switzerland|Bern|Europe|German|CH
Austria|Vienna|Europe|German|AT
Poland|Warsaw|Europe|Polish|PL
the Czech Republic|Prague|Europe|Czech|CZ
Slovakia|Bratislava|Europe|Slovak|SK
Hungary|Budapest|Europe|Hungarian|HU
Romania|Bucharest|Europe|Romanian|RO
Bulgaria|Sofia|Europe|Bulgarian|BG
Greece|Athens|Europe|Greek|GR
Croatia|Zagreb|Europe|Croatian|HR
Slovenia|Ljubljana|Europe|Slovene|SI
Serbia|Belgrade|Europe|Serbian|RS
Albania|Tirana|Europe|Albanian|AL
Denmark|Copenhagen|Europe|Danish|DK
Sweden|Stockholm|Europe|Swedish|SE
Norway|Oslo|Europe|Norwegian|NO
Finland|Helsinki|Europe|Finnish|FI
Iceland|Reykjavik|Europe|Icelandic|IS
Estonia|Tallinn|Europe|Estonian|EE
Latvia|Riga|Europe|Latvian|LV
Lithuania|Vilnius|Europe|Lithuanian|LT
Ukraine|Kyiv|Europe|Ukrainian|UA
Russia|Moscow|Europe|Russian|RU
Malta|Valletta|Europe|Maltese|MT
Monaco|Monaco|Europe|French|MC
Turkey|Ankara|Asia|Turkish|TR
Japan|Tokyo|Asia|Japanese|JP
China|Beijing|Asia|Chinese|CN
South Korea|Seoul|Asia|Korean|KR
India|New Delhi|Asia|Hindi|IN
Pakistan|Islamabad|Asia|Urdu|PK
Bangladesh|Dhaka|Asia|Bengali|BD
Nepal|Kathmandu|Asia|Nepali|NP
Thailand|Bangkok|Asia|Thai|TH
Vietnam|Hanoi|Asia|Vietnamese|VN
Malaysia|Kuala Lumpur|Asia|Malay|MY
Singapore|Singapore|Asia|English|SG
Indonesia|Jakarta|Asia|Indonesian|ID
the Philippines|Manila|Asia|Filipino|PH
Mongolia|Ulaanbaatar|Asia|Mongolian|MN
Iran|Tehran|Asia|Persian|IR
Iraq|Baghdad|Asia|Arabic|IQ
Saudi Arabia|Riyadh|Asia|Arabic|SA
Qatar|Doha|Asia|Arabic|QA
Jordan|Amman|Asia|Arabic|JO
Egypt|Cairo|Africa|Arabic|EG
Morocco|Rabat|Africa|Arabic|MA
Algeria|Algiers|Africa|Arabic|DZ
Tunisia|Tunis|Africa|Arabic|TN
Kenya|Nairobi|Africa|Swahili|KE
Nigeria|Abuja|Africa|English|NG
Ghana|Accra|Africa|English|GH
Ethiopia|Addis Ababa|Africa|Amharic|ET
Senegal|Dakar|Africa|French|SN
Uganda|Kampala|Africa|English|UG
Rwanda|Kigali|Africa|Kinyarwanda|RW
Angola|Luanda|Africa|Portuguese|AO
Canada|Ottawa|North America|English|CA
the United States|Washington, D.C.|North America|English|US
Mexico|Mexico City|North America|Spanish|MX
Cuba|Havana|North America|Spanish|CU
Jamaica|Kingston|North America|English|JM
Panama|Panama City|North America|Spanish|PA
Costa Rica|San José|North America|Spanish|CR
Brazil|Brasília|South America|Portuguese|BR
Argentina|Buenos Aires|South America|Spanish|AR
Chile|Santiago|South America|Spanish|CL
Peru|Lima|South America|Spanish|PE
Colombia|Bogotá|South America|Spanish|CO
Venezuela|Caracas|South America|Spanish|VE
Ecuador|Quito|South America|Spanish|EC
Uruguay|Montevideo|South America|Spanish|UY
Australia|Canberra|Oceania|English|AU
New Zealand|Wellington|Oceania|English|NZ
Fiji|Suva|Oceania|English|FJ
""")

COLOURS_OF = pairs("""the sky=blue, grass=green, snow=white, coal=black, a lemon=yellow, a banana=yellow,
blood=red, a tomato=red, a strawberry=red, a carrot=orange, an orange=orange,
a pumpkin=orange, chocolate=brown, milk=white, a cucumber=green, a frog=green, a leaf=green,
the sun=yellow, the sea=blue, a cherry=red, a flamingo=pink, a polar bear=white,
a crow=black, an elephant=grey, a mouse=grey, a plum=purple, an aubergine=purple,
a lime=green, salt=white, sand=yellow, a fire engine=red, gold=yellow, a swan=white,
broccoli=green, spinach=green, a raven=black, a brick=red, a pea=green, a cloud=white,
ink=black""")

# animal | sound verb | its young | legs | emoji
ANIMALS = rows("""
cat|says meow|kitten|4|🐱
dog|says woof|puppy|4|🐶
cow|says moo|calf|4|🐮
sheep|says baa|lamb|4|🐑
pig|says oink|piglet|4|🐷
horse|says neigh|foal|4|🐴
duck|says quack|duckling|2|🦆
hen|says cluck|chick|2|🐔
lion|roars|cub|4|🦁
tiger|roars|cub|4|🐯
wolf|howls|pup|4|🐺
fox|barks|kit|4|🦊
frog|says ribbit|tadpole|4|🐸
owl|hoots|owlet|2|🦉
bee|buzzes|larva|6|🐝
snake|hisses|snakelet|0|🐍
mouse|squeaks|pup|4|🐭
elephant|trumpets|calf|4|🐘
goose|honks|gosling|2|🪿
donkey|brays|foal|4|🫏
goat|bleats|kid|4|🐐
bear|growls|cub|4|🐻
monkey|chatters|infant|4|🐒
swan|whoops|cygnet|2|🦢
""")

LEGS_MORE = pairs(
    "a spider=8, an ant=6, a butterfly=6, a fish=0, a crab=10, a person=2, a beetle=6, a chair=4, a bird=2"
)

# in order of atomic number
ELEMENTS = pairs("""hydrogen=H, helium=He, lithium=Li, beryllium=Be, boron=B, carbon=C, nitrogen=N, oxygen=O,
fluorine=F, neon=Ne, sodium=Na, magnesium=Mg, aluminium=Al, silicon=Si, phosphorus=P,
sulfur=S, chlorine=Cl, argon=Ar, potassium=K, calcium=Ca""")
ELEMENTS_MORE = pairs("""iron=Fe, copper=Cu, zinc=Zn, silver=Ag, gold=Au, tin=Sn, lead=Pb, mercury=Hg, nickel=Ni,
titanium=Ti, chromium=Cr, platinum=Pt, uranium=U, iodine=I, cobalt=Co, bromine=Br,
tungsten=W, radium=Ra, krypton=Kr, xenon=Xe""")

OPPOSITES = pairs("""hot=cold, big=small, up=down, left=right, day=night, black=white, fast=slow, old=young,
open=closed, happy=sad, wet=dry, full=empty, hard=soft, high=low, light=dark, long=short,
loud=quiet, rich=poor, strong=weak, thick=thin, early=late, easy=difficult, clean=dirty,
near=far, good=bad, true=false, first=last, inside=outside, always=never, push=pull,
buy=sell, win=lose, love=hate, begin=end, yes=no, north=south, east=west, deep=shallow,
wide=narrow""")

PLURALS = pairs("""cat=cats, dog=dogs, mouse=mice, child=children, foot=feet, tooth=teeth, goose=geese,
man=men, woman=women, person=people, sheep=sheep, fish=fish, leaf=leaves, knife=knives,
box=boxes, city=cities, baby=babies, book=books, house=houses, tree=trees, bus=buses,
wolf=wolves, ox=oxen, potato=potatoes, berry=berries, glass=glasses, day=days,
story=stories, half=halves, token=tokens""")

# 'How many {a} are there in {b}?'
AMOUNTS = rows("""
days|a week|7
months|a year|12
hours|a day|24
minutes|an hour|60
seconds|a minute|60
letters|the alphabet|26
days|a year|365
weeks|a year|52
years|a century|100
years|a decade|10
centimetres|a metre|100
metres|a kilometre|1000
grams|a kilogram|1000
planets|the solar system|8
continents|the world|7
oceans|the world|5
seasons|a year|4
players|a football team|11
strings|a violin|4
sides|a triangle|3
sides|a square|4
sides|a hexagon|6
colours|a rainbow|7
cards|a deck of cards|52
bits|a byte|8
bytes|a kilobyte|1024
wheels|a bicycle|2
wheels|a car|4
vowels|the alphabet|5
""")

PLANETS = words("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
ORDINALS = words("first second third fourth fifth sixth seventh eighth ninth tenth")
NUMBERS = words("zero one two three four five six seven eight nine ten eleven twelve")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
ALPHABET = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

# plural name -> members, in the one order the model learns; the first n answer 'list n ...'
LISTS: dict[str, list[str]] = {
    "colours": words("red blue green yellow orange purple pink brown black white"),
    "days of the week": DAYS,
    "months of the year": MONTHS,
    "planets": PLANETS,
    "letters of the alphabet": ALPHABET,
    "continents": ["Africa", "Antarctica", "Asia", "Europe", "North America", "Oceania", "South America"],
    "seasons": words("spring summer autumn winter"),
    "oceans": words("Pacific Atlantic Indian Southern Arctic"),
    "fruits": words("apple banana cherry orange pear grape lemon peach plum mango"),
    "vegetables": words("carrot potato tomato onion cabbage pea bean spinach pumpkin leek"),
    "animals": words("cat dog horse cow sheep lion tiger bear fox rabbit"),
    "birds": words("robin sparrow eagle owl duck swan crow pigeon parrot hen"),
    "fish": words("salmon tuna trout cod herring carp eel pike shark perch"),
    "insects": words("ant bee beetle butterfly fly moth wasp cricket dragonfly ladybird"),
    "trees": words("oak pine birch maple willow beech ash elm cedar fir"),
    "flowers": words("rose tulip daisy lily orchid poppy violet sunflower iris daffodil"),
    "instruments": words("piano violin guitar drum flute trumpet harp cello clarinet organ"),
    "shapes": words("circle square triangle rectangle oval pentagon hexagon star diamond heart"),
    "metals": words("iron copper gold silver tin lead zinc nickel aluminium titanium"),
    "sports": words("football tennis basketball swimming running cycling rugby hockey golf rowing"),
    "tools": words("hammer saw screwdriver drill spanner pliers axe chisel file shovel"),
    "drinks": words("water milk tea coffee juice lemonade cocoa soup cider soda"),
    "countries": words("France Germany Italy Spain Japan China India Brazil Canada Egypt"),
    "cities": words("Paris London Berlin Rome Madrid Tokyo Cairo Oslo Vienna Lisbon"),
    "rivers": words("Nile Amazon Danube Rhine Thames Seine Volga Ganges Mekong Congo"),
    "languages": words("English French German Spanish Italian Portuguese Chinese Japanese Arabic Hindi"),
    "jobs": words("teacher doctor nurse farmer baker pilot cook painter driver engineer"),
    "rooms": ["kitchen", "bedroom", "bathroom", "hall", "cellar", "attic", "office", "library", "pantry", "garage"],
    "clothes": words("shirt trousers coat hat scarf gloves socks shoes dress jacket"),
    "vowels": words("A E I O U"),
    "even numbers": words("2 4 6 8 10 12 14 16 18 20"),
    "odd numbers": words("1 3 5 7 9 11 13 15 17 19"),
    "prime numbers": words("2 3 5 7 11 13 17 19 23 29"),
    "square numbers": words("1 4 9 16 25 36 49 64 81 100"),
    "powers of two": words("1 2 4 8 16 32 64 128 256 512 1024"),
    "colours of the rainbow": words("red orange yellow green blue indigo violet"),
    "programming languages": ["Python", "Go", "Java", "TypeScript", "Rust", "C", "C++", "Ruby", "Kotlin", "Swift"],
}

EMOJI = pairs("""cat=🐱, dog=🐶, heart=❤️, star=⭐, sun=☀️, moon=🌙, fire=🔥, water=💧, tree=🌳, flower=🌸, rose=🌹,
apple=🍎, banana=🍌, cherry=🍒, grape=🍇, lemon=🍋, peach=🍑, pear=🍐, strawberry=🍓, watermelon=🍉,
pizza=🍕, cake=🎂, coffee=☕, tea=🍵, bread=🍞, cheese=🧀, egg=🥚, rocket=🚀, car=🚗, bus=🚌, train=🚆,
plane=✈️, bicycle=🚲, ship=🚢, house=🏠, school=🏫, book=📚, pencil=✏️, key=🔑, lock=🔒, clock=⏰,
phone=📱, computer=💻, robot=🤖, ghost=👻, smile=😊, laugh=😂, thumbs up=👍, wave=👋, party=🎉,
gift=🎁, music=🎵, guitar=🎸, football=⚽, rain=🌧️, snow=❄️, rainbow=🌈, earth=🌍, fish=🐟, bird=🐦,
horse=🐴, lion=🦁, tiger=🐯, bear=🐻, fox=🦊, frog=🐸, monkey=🐒, elephant=🐘, bee=🐝, butterfly=🦋,
snake=🐍, owl=🦉, penguin=🐧, programmer=👩‍💻, family=👨‍👩‍👧""")
EMOJI_SETS = {
    "fruit": "🍎 🍌 🍒 🍇 🍋 🍑 🍐 🍓 🍉 🍍",
    "animal": "🐱 🐶 🐭 🐴 🦁 🐯 🐻 🦊 🐸 🐒",
    "weather": "☀️ 🌤️ ☁️ 🌧️ ⛈️ ❄️ 🌈 🌪️ 🌫️ 🌙",
    "food": "🍕 🍞 🧀 🥚 🎂 🍔 🍟 🍜 🍣 🥗",
    "face": "😊 😂 😍 😎 😢 😡 😴 🤔 😇 🥳",
    "transport": "🚗 🚌 🚆 ✈️ 🚲 🚢 🚀 🚕 🚜 🛵",
}

# English | French | German | Spanish | Italian | Portuguese | Chinese | Japanese
TRANSLATIONS = rows("""
hello|bonjour|hallo|hola|ciao|olá|你好|こんにちは
goodbye|au revoir|auf Wiedersehen|adiós|arrivederci|adeus|再见|さようなら
thank you|merci|danke|gracias|grazie|obrigado|谢谢|ありがとう
please|s'il vous plaît|bitte|por favor|per favore|por favor|请|お願いします
yes|oui|ja|sí|sì|sim|是|はい
no|non|nein|no|no|não|不|いいえ
good morning|bonjour|guten Morgen|buenos días|buongiorno|bom dia|早上好|おはようございます
good night|bonne nuit|gute Nacht|buenas noches|buona notte|boa noite|晚安|おやすみなさい
water|eau|Wasser|agua|acqua|água|水|水
bread|pain|Brot|pan|pane|pão|面包|パン
cat|chat|Katze|gato|gatto|gato|猫|猫
dog|chien|Hund|perro|cane|cão|狗|犬
house|maison|Haus|casa|casa|casa|房子|家
book|livre|Buch|libro|libro|livro|书|本
sun|soleil|Sonne|sol|sole|sol|太阳|太陽
moon|lune|Mond|luna|luna|lua|月亮|月
friend|ami|Freund|amigo|amico|amigo|朋友|友達
love|amour|Liebe|amor|amore|amor|爱|愛
one|un|eins|uno|uno|um|一|一
two|deux|zwei|dos|due|dois|二|二
three|trois|drei|tres|tre|três|三|三
red|rouge|rot|rojo|rosso|vermelho|红色|赤
blue|bleu|blau|azul|blu|azul|蓝色|青
apple|pomme|Apfel|manzana|mela|maçã|苹果|りんご
""")
TRANSLATION_LANGUAGES = words("French German Spanish Italian Portuguese Chinese Japanese")

# Chinese name, Chinese capital, Japanese name, Japanese capital
ASIAN_CAPITALS = rows("""
法国|巴黎|フランス|パリ
德国|柏林|ドイツ|ベルリン
意大利|罗马|イタリア|ローマ
西班牙|马德里|スペイン|マドリード
日本|东京|日本|東京
中国|北京|中国|北京
韩国|首尔|韓国|ソウル
英国|伦敦|イギリス|ロンドン
俄罗斯|莫斯科|ロシア|モスクワ
埃及|开罗|エジプト|カイロ
加拿大|渥太华|カナダ|オタワ
泰国|曼谷|タイ|バンコク
印度|新德里|インド|ニューデリー
希腊|雅典|ギリシャ|アテネ
""")
