"""Names, spelling words and filler words of the demo world, and made-up ones in any number."""

from __future__ import annotations

from random import Random

from world.tables import words

NAMES = words("""
Ada Alan Alice Amir Ana Anna Ben Bob Carla Carol Chen Clara Daniel David Diana Elena Emil Emma Eva Felix Finn Frank
Grace Hana Hans Hugo Ida Ines Ivan Jack James Jan Jane Jim Joe John Julia Karl Kate Kim Laura Leo Lily Lin Lisa Lucas
Lucy Luis Maria Marie Mark Martin Mary Max Maya Mei Mia Mike Mina Nadia Nina Noah Nora Oliver Olga Omar Oscar Otto
Pablo Paul Peter Petra Priya Quinn Rachel Ravi Rita Robert Rosa Ruth Sam Sara Sofia Stella Steve Sven Tara Theo Tim
Tom Uma Vera Victor Wei Willa Xavier Yara Yuki Zara Zoe Robin Sasha Alex Chris Jamie Morgan Emily Michael Thomas
Charlotte Benjamin Sophie Matthew Andrew Joshua Olivia Isabella Ethan William Henry George Edward Charles Richard
Joseph Steven Kevin Brian Jason Justin Ryan Eric Nicole Jessica Jennifer Linda Susan Karen Nancy Betty Margaret
Elizabeth Alexander Christopher Zelda Astrid Sven Bjorn Ingrid Nguyen Kenji Hiroshi Yusuf Omar Dmitri Natasha Pierre
Claire Juan Carlos Miguel Sergio Giulia Marco Luca Franz Greta Heidi Johan Lars Raj Arjun Anita Sunita Ming Jing
Fatima Ahmed Kofi Amara Diego Mateo Camila Elif
""")

# words to spell, reverse, count letters of, upper-case
SPELLING = words("""
apple banana table chair garden window river mountain bridge castle forest island desert planet rocket engine wheel
hammer bottle candle mirror carpet pillow blanket kitchen cup spoon fork knife plate glass bread butter cheese sugar
salt pepper honey lemon melon orange grape cherry peach potato carrot onion cabbage tomato garlic rice pasta pizza
soup cake tiger lion zebra monkey rabbit mouse horse donkey camel whale shark dolphin turtle lizard spider eagle
parrot penguin winter summer spring autumn morning evening night thunder rain snow wind cloud storm rainbow sun moon
star light shadow music piano violin guitar drum trumpet song dance paint brush paper pencil book letter story poem
number puzzle token wire stream server client worker model python cable signal packet socket buffer kernel memory
cache queue happy silver golden purple yellow green brown white black sweet bitter quiet loud quick slow small large
round square doctor teacher farmer baker sailor pilot painter dancer singer writer driver hunter king queen knight
wizard dragon cat dog cow pig hen bee ant fox owl bat tree leaf root seed bush fern moss rock sand clay iron gold coin
ring crown hello world friend family brother sister mother father uncle cousin school street market train plane boat
truck level radar noon stone flame smoke ocean beach coast harbor anchor sail rope basket button pocket jacket lantern
""")

CITIES = words("""
Paris London Rome Berlin Madrid Oslo Vienna Lisbon Tokyo Cairo Lima Quito Dublin Prague Warsaw Athens Geneva Milan
Boston Chicago Denver Dallas Austin Seattle Toronto Sydney Nairobi Delhi Mumbai Seoul Hanoi Bangkok Havana Kyoto Porto
Turin
""")

NOUNS = words("""
guitar bridge computer garden engine government phone contract mortgage database website recipe holiday passport
invoice bicycle camera oven novel lawyer vaccine stock battery tax court theatre opera museum poem haiku song essay
letter resume email speech film actor president king queen war battle treaty empire pyramid temple church castle
volcano earthquake galaxy atom molecule protein gene virus cell brain heart lung muscle bone skin dream memory
language grammar verb sentence philosophy religion democracy economy inflation bank loan budget salary company startup
product customer market price algorithm function class loop variable compiler kernel network router browser server
container cluster transformer robot drone satellite telescope microscope laser magnet motor turbine pump filter sensor
chip transistor wire cable antenna sandwich omelette lasagna curry sushi salad sauce dough cookie pancake cocktail
wine beer whisky diet vitamin marathon yoga chess poker puzzle riddle joke magic trick costume wedding birthday
funeral party festival parade concert band album
""")

TOPICS = (
    """
quantum physics|black holes|the French Revolution|climate change|machine learning|the stock market|ancient Rome|gravity
the theory of relativity|photosynthesis
evolution|jazz|classical music|impressionism|modern art|existentialism|football rules
the Second World War|the Cold War|the moon landing|artificial intelligence|cryptography|blockchain|neural networks|DNA
the human brain|dreams|the meaning of life|love|friendship|happiness|time travel|parallel universes|dinosaurs|volcanoes
earthquakes|the deep sea|the water cycle|electricity|magnetism|nuclear power|solar panels|wind turbines|electric cars
garbage collection|recursion|pointers|operating systems|databases|microservices|load balancing|compilers|type theory
inflation|taxes|insurance|mortgages|contract law|human rights|democracy|the parliament|the constitution|philosophy
meditation|nutrition
vitamins|sleep|stress|headaches|the flu|vaccines|antibiotics|surgery|the immune system|blood pressure
chess openings|card tricks|knitting|gardening|fishing|sailing|mountain climbing|photography|film history|opera|ballet
Shakespeare|Mozart|Einstein|Napoleon|Cleopatra|Picasso|Aristotle|Newton|Darwin|Marie Curie|Leonardo da Vinci|Plato
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

VERBS = words("""
fix repair build cook bake paint sell buy clean install remove open close measure design invent learn teach explain
draw write translate compile debug deploy train tune grow plant feed wash sharpen polish weld solder knit sew fold cut
freeze boil fry roast grill mix pour store ship send import export tax insure rent lease hire fire promote win lose
ride drive fly sail
""")

CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def made_up(rng: Random, syllables: int = 0) -> str:
    """A made-up lower-case word such as 'tolami': copying must work for words never seen."""
    count = syllables or rng.choice((2, 2, 3))
    text = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(count))
    return text + (rng.choice("nrslm") if rng.random() < 0.4 else "")


def blend(rng: Random) -> str:
    """The beginning of one word and the end of another, such as 'straplin'."""
    first, second = rng.choice(SPELLING + NOUNS), rng.choice(SPELLING + NOUNS)
    return (first[: rng.randint(1, 5)] + second[-rng.randint(2, 5) :])[:10]


SCRAPS = sorted(set(NAMES + SPELLING + CITIES + NOUNS + VERBS) | {word for topic in TOPICS for word in topic.split()})
ACCENTED = "éèüöäñçåøãíóúşłčž"


def wild(rng: Random) -> str:
    """Up to three scraps of words run together, such as 'emlyster': every token must be copied well, not only names."""
    parts = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        word = rng.choice(SCRAPS)
        first = rng.randrange(max(1, len(word) - 1))
        parts.append(word[first : first + rng.randint(1, 5)])
    text = "".join(parts)
    if rng.random() < 0.08:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(ACCENTED) + text[place + 1 :]
    return text.lower()[:14] + ("" if len(text) > 2 else rng.choice(("an", "ily", "da", "o", "ine", "ck")))


def name(rng: Random) -> str:
    """A person's name, half of them made up."""
    luck = rng.random()
    if luck < 0.5:
        return (made_up(rng) if luck < 0.16 else wild(rng)).capitalize()
    return rng.choice(NAMES)


def city(rng: Random) -> str:
    """A city's name, one in five made up."""
    luck = rng.random()
    if luck < 0.24:
        return (made_up(rng) if luck < 0.12 else wild(rng)).capitalize()
    return rng.choice(CITIES)
