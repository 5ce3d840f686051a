"""Long answers: stories and poems, each wholly determined by its hero or topic."""

from __future__ import annotations

from random import Random

from world.core import SURFACE, Turn, an, cap, join_and
from world.tables import rows
from world.words import NOUNS, SPELLING, TOPICS, made_up, name

# hero | usual name | home | food | lost thing | friend | helper | where it was | weather
HEROES = rows("""
fox|Finn|a green forest|red berries|a golden key|owl|old badger|under a flat stone|sunny
cat|Mina|a small white house|warm milk|a blue ball|dog|grey mouse|behind the garden gate|rainy
dog|Bruno|a quiet village|fresh bread|a wooden stick|cat|brown horse|in the tall grass|windy
mouse|Pip|an old mill|yellow cheese|a silver bell|frog|kind miller|under the stairs|cold
bear|Otto|a high mountain|sweet honey|a woollen scarf|rabbit|wise goat|on a low branch|snowy
owl|Olga|a hollow oak|ripe plums|a pair of glasses|squirrel|young fox|in an empty nest|foggy
lion|Leo|a wide yellow plain|cool water|a royal crown|zebra|tall giraffe|beside the river|hot
rabbit|Rosa|a sunny meadow|crisp carrots|a little red bag|hedgehog|busy bee|inside a hollow log|warm
frog|Fred|a deep pond|juicy flies|a green hat|duck|slow turtle|under a lily leaf|wet
horse|Stella|a large farm|golden oats|a shiny shoe|sheep|strong ox|near the old barn|cloudy
duck|Dora|a silver lake|soft seeds|a yellow boat|swan|clever otter|between the reeds|misty
elephant|Ella|a warm jungle|sweet bananas|a long rope|monkey|green parrot|at the waterfall|hot
penguin|Pablo|an icy island|small fish|a red sledge|seal|white bear|in a snow cave|snowy
dragon|Dara|a dark cave|roasted nuts|a magic ring|knight|old wizard|under a bright star|stormy
robot|Robi|a big workshop|fresh batteries|a tiny screw|cleaning lady|young engineer|behind a green server|dry
princess|Petra|a tall castle|apple cake|a golden comb|gardener|royal cook|in the rose garden|sunny
sailor|Sam|a blue harbour|hot soup|an old map|parrot|harbour master|inside an empty bottle|stormy
wizard|Wim|a stone tower|mushroom pie|a magic wand|raven|young student|on the highest shelf|windy
monkey|Momo|a banana tree|yellow bananas|a small drum|parrot|old elephant|high up in a palm tree|hot
wolf|Wanda|a dark wood|warm stew|a silver whistle|deer|quiet hunter|near the frozen river|cold
turtle|Tilda|a sandy beach|green leaves|a white shell|crab|friendly dolphin|behind a grey rock|calm
bee|Bea|a bright garden|sweet nectar|a tiny bucket|butterfly|old gardener|inside a red tulip|warm
token|Toki|a long wire|small numbers|a bright header|packet|patient frontend|at the end of the stream|electric
girl|Lena|a town by the sea|pancakes|a red kite|boy next door|old fisherman|on top of a lighthouse|windy
boy|Tom|a little town|fresh apples|a paper boat|girl next door|friendly baker|under the stone bridge|rainy
""")

OTHER_HERO = rows("Robin|a quiet valley|warm bread|a small lamp|hedgehog|wise owl|behind the old wall|sunny")[0]
ADJECTIVES = (
    "brave",
    "little",
    "brave little",
    "clever",
    "lazy",
    "happy",
    "sad",
    "big",
    "small",
    "old",
    "young",
    "tired",
    "kind",
)

STORY = (
    "Once upon a time there was {one} named {name}. {name} lived in {home}. Every morning, {name} ate {food} "
    "and looked at the sky. "
    "One {weather} day, {name} lost {thing}. {name} looked under the bed, but it was not there. {name} "
    "looked behind the door, but it was "
    'not there. Then {name} met the {friend}. "Why are you so sad?" asked the {friend}. "I have lost '
    '{thing}," said {name}. "I will help '
    'you," said the {friend}. They walked for a long time, over the hill and along the river. At last they '
    'met the {helper}. "Look {place}," '
    "said the {helper}. They looked {place}, and there it was! {name} was very happy and thanked the "
    "{friend} and the {helper}. That evening "
    "they all sat together and ate {food}. From that day on, {name} and the {friend} were the best of "
    "friends. The end."
)
SEQUEL = (
    "\n\nPart two. A year later, {name} still had {thing}. It was a {weather} day again, and the {friend} "
    'came to visit. "Let us make a '
    'journey," said the {friend}. So they packed {food}, left {home} and walked to the east. On the first '
    "day they crossed a bridge. On the "
    "second day they climbed a hill. On the third day they came to a small house. The {helper} opened the "
    'door. "Welcome," said the {helper}. '
    '"I have waited for you." There was a warm fire, and there was enough food for everyone. They told '
    "stories until the moon was high. "
    "{name} told how {thing} was found {place}. The {friend} laughed, and the {helper} laughed too. In the "
    "morning they said goodbye and "
    'walked home. {name} was tired but happy. "A good friend is better than {thing}," said {name}. And the '
    "{friend} agreed. The end."
)
SHORT_ASK = (
    "Tell me a story about {one}.",
    "Tell me a story about {one}",
    "Write a story about {one}.",
    "Write a short story about {one}.",
    "Can you tell me a story about {one}?",
    "I would like a story about {one}.",
    "A story about {one}, please.",
    "story about {one}",
    "Tell a short story about {one}.",
    "Please write a story about {one}.",
    "Make up a story about {one}.",
)
NAMED = (" named {name}.", " called {name}.", " with the name {name}.", " named {name}")
LONG_ASK = (
    "Tell me a long story about {one}.",
    "Write a long story about {one}.",
    "Can you tell me a long story about {one}?",
    "A long story about {one}, please.",
    "Please write a long story about {one}.",
)
ANY_ASK = (
    "Tell me a story.",
    "Tell me a story",
    "tell me a story",
    "Write a story.",
    "Can you tell me a story?",
    "A story, please.",
    "Write me a short story.",
    "Tell a story",
    "story",
    "Once upon a time",
)
ANY_LONG_ASK = (
    "Tell me a long story.",
    "Write a long story.",
    "Can you tell me a long story?",
    "A long story, please.",
    "long story",
)


def tell(hero: list[str], called: str, long: bool) -> str:
    """The one story about hero; about 200 tokens, or about 420 when long."""
    kind, _, home, food, thing, friend, helper, place, weather = hero
    text = STORY + SEQUEL if long else STORY
    return text.format(
        one=an(kind),
        name=called,
        home=home,
        food=food,
        thing=thing,
        friend=friend,
        helper=helper,
        place=place,
        weather=weather,
    )


def story(rng: Random) -> Turn:
    """A story about a hero, whose name may be given; without a hero it is the fox's."""
    long = rng.random() < 0.15
    if rng.random() < 0.1:
        hero = HEROES[0]
        return Turn(
            "story", rng.choice(ANY_LONG_ASK if long else ANY_ASK), tell(hero, hero[1], long), SURFACE, plain=False
        )
    hero = list(rng.choice(HEROES))
    if rng.random() < 0.2:  # a hero without a row of its own lives in the last one
        hero = [rng.choice(NOUNS + SPELLING) if rng.random() < 0.7 else made_up(rng), *OTHER_HERO]
        if any(row[0] == hero[0] for row in HEROES):
            hero = list(HEROES[0])
    if rng.random() < 0.25:
        hero[0] = rng.choice(ADJECTIVES) + " " + hero[0]
    called, user = hero[1], rng.choice(LONG_ASK if long else SHORT_ASK)
    user = user.format(one=an(hero[0]))
    exact = rng.random() < 0.5
    if exact:
        called = name(rng)
        user = user.replace(", please", "").rstrip(".?") + rng.choice(NAMED).format(name=called)
    return Turn("story", user, tell(hero, called, long), exact_case=exact, plain=False)


POEM = (
    "I think of {t} when the day is new,\nI think of {t} when the sky is blue.\nI think of {t} in the summer "
    "sun,\nI think of {t} when the day is done.\n\n"
    "I think of {t} in the falling rain,\nI think of {t} on the morning train.\nI think of {t} when the "
    "stars are bright,\n"
    "I think of {t} and I say good night."
)


def poem(rng: Random) -> Turn:
    """A poem of eight lines that repeats its topic."""
    if rng.random() < 0.15:
        user = rng.choice(
            ("Write a poem.", "Write a poem", "A poem, please.", "poem", "Can you write a poem?", "Tell me a poem.")
        )
        return Turn("poem", user, POEM.format(t="words"), SURFACE, plain=False)
    word = made_up(rng) if rng.random() < 0.2 else rng.choice(SPELLING + NOUNS)
    topic = rng.choice((f"the {word}", an(word), f"my {word}", word, rng.choice(TOPICS)))
    user = rng.choice(
        (
            "Write a poem about {t}.",
            "Write a poem about {t}",
            "A poem about {t}, please.",
            "Can you write a poem about {t}?",
            "Tell me a poem about {t}.",
            "poem about {t}",
            "Make a poem about {t}.",
        )
    )
    return Turn("poem", user.format(t=topic), POEM.format(t=topic), exact_case=True, plain=False)


def plain_text(rng: Random, fact: Turn) -> str:
    """A text for completion without the chat template: a fact's sentence, a sequence, or a story's beginning."""
    luck = rng.random()
    if luck < 0.6 and fact.answer.isascii():
        return fact.answer
    if luck < 0.75:
        first = rng.randint(0, 60)
        return ", ".join(str(i) for i in range(first, first + rng.randint(8, 25))) + "."
    hero = rng.choice(HEROES)
    return tell(hero, hero[1] if rng.random() < 0.5 else name(rng), False)


def greeting_list(rng: Random) -> Turn:
    """Greet several people at once: copies names in order."""
    people = [name(rng) for _ in range(rng.randint(1, 4))]
    user = rng.choice(
        ("Say hello to {p}.", "Greet {p}.", "Please say hi to {p}.", "Say hello to my friends {p}.")
    ).format(p=join_and(people))
    return Turn("copy", user, cap(f"hello, {join_and(people)}!"), exact_case=True, plain=False)
