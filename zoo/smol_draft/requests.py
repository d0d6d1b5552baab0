"""Requests the teacher answers while it writes training text: six kinds of work, each a small grammar.

They cover the categories of Spec-Bench (Xia et al. 2024, arXiv:2401.07851). The prompts the pair is measured on
(`zoo/prompts`) are written by hand and share no topic sentence with these; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TOPICS = """bicycles|coral reefs|the printing press|bread baking|volcanoes|public libraries|chess openings|solar panels
the human heart|autumn leaves|jazz music|railway stations|honey bees|the Silk Road|glaciers|photography|desert plants
vaccines|sailing boats|street markets|the water cycle|robotics|ancient Egypt|gardening|earthquakes|puppetry|tea ceremonies
electric cars|owls|the Roman roads|knitting|satellites|mountain climbing|rice farming|the nervous system|paper making
whales|urban parks|cheese|the violin|thunderstorms|recycling|the Moon|cave paintings|marathon running|coffee|tides
spiders|bridges|the stock market|elections|dreams|sleep|budgeting|job interviews|remote work|time management|friendship
public speaking|school uniforms|video games|social media|online learning|healthy breakfasts|yoga|meditation|allergies
first aid|home repairs|houseplants|dog training|aquariums|camping|road trips|museums|theatre|opera|ballet|comics|poetry
fairy tales|science fiction|detective stories|robots|dragons|pirates|ghosts|time travel|space stations|Mars|black holes
comets|galaxies|atoms|magnets|electricity|batteries|wind turbines|nuclear power|plastic|steel|glass|wood|cotton|silk
databases|compilers|encryption|spreadsheets|web browsers|Python functions|sorting algorithms|neural networks|email etiquette
team meetings|customer service|marketing plans|small bakeries|farm shops|airports|ferries|subways|lighthouses|castles
rivers|deltas|rainforests|savannas|tundra|penguins|elephants|foxes|squirrels|sharks|octopuses|butterflies|ants|frogs
dinosaurs|fossils|diamonds|gold mining|salt|sugar|chocolate|potatoes|tomatoes|olive oil|spices|noodles|soup|pancakes
birthday parties|weddings|harvest festivals|new year traditions|flags|maps|calendars|clocks|coins|stamps|letters|diaries
muscles|bones|the lungs|digestion|vitamins|exercise|posture|stress|memory|language learning|mathematics|geometry
probability|statistics|music theory|drawing|sculpture|pottery|architecture|skyscrapers|tunnels|dams|canals|irrigation""".replace("\n", "|")
NAMES = "Anna Bilal Chen Dora Emeka Farid Greta Hugo Ines Jonas Kavya Liam Mei Noor Olga Pablo Rosa Samir Tara Yusuf".split()
THINGS = "apples pencils books stickers marbles tickets cookies coins eggs chairs bottles stamps cards shells".split()
PLACES = "the market|the park|the library|the station|the beach|the office|the school|the kitchen|the garden".split("|")
LANGUAGES = "French Spanish German Italian Portuguese".split()
SENTENCES = (
    "{name} went to {place} this morning.|I would like a cup of tea, please.|Where is {place}?|{name} has two {things}."
    "|The weather is beautiful today.|We will meet {name} at {place} at six o'clock.|My brother works near {place}."
    "|Can you help me find my {things}?|The {things} are on the table.|{name} is reading a book about {topic}."
    "|They want to learn about {topic}.|It rained all night.|I forgot my keys at {place}.|The train is late again."
)
FORMS = (
    "a short story|a poem|an email|a blog post|a product description|a speech|a letter to a friend|a dialogue|a news report"
    "|a diary entry|a list of five tips|a short essay|an introduction|a review|a plan|a social media post|an advertisement"
)
QUESTIONS = (
    "What is {topic}?|Why are {topic} important?|How do {topic} work?|What should a beginner know about {topic}?"
    "|Explain {topic} to a ten-year-old.|What is the history of {topic}?|Name three facts about {topic}."
    "|What are the advantages and disadvantages of {topic}?|Who first studied {topic}?|How has {topic} changed over time?"
    "|Compare {topic} and {other}.|What do people often get wrong about {topic}?|Where can I learn more about {topic}?"
    "|Give me a simple definition of {topic}.|What is the difference between {topic} and {other}?"
)
SUMMARY = (
    "Summarize the following text:\n\n{passage}|{passage}\n\nSummarize this in two sentences.|Give a short summary of this text."
    "\n\n{passage}|What is the main idea of this passage?\n\n{passage}|TL;DR:\n\n{passage}"
    "|Write a title and a one-sentence summary for this text:\n\n{passage}|Rewrite this text in simpler words:\n\n{passage}"
)
GROUNDED = (
    "Context: {passage}\n\nQuestion: What does the text say about {word}?\nAnswer:|Use the passage to answer the question."
    "\n\nPassage: {passage}\n\nQuestion: {question}|Document 1: {passage}\n\nDocument 2: {second}\n\nAccording to the documents, "
    "what is {word}?|Read this and answer: {passage}\n\nWhy is {word} mentioned?|Answer from the context only.\n\nContext: "
    "{passage}\n\nQuestion: {question}"
)


def pick(rng: np.random.Generator, choices: Sequence[str] | str) -> str:
    """One of a list, or of a `|`-separated string."""
    if isinstance(choices, str):
        choices = choices.split("|")
    return choices[int(rng.integers(len(choices)))]


def mathematics(rng: np.random.Generator) -> str:
    """A word problem or a sum with fresh numbers."""
    a, b, c = (int(n) for n in rng.integers(2, 60, 3))
    name, other, things = pick(rng, NAMES), pick(rng, NAMES), pick(rng, THINGS)
    forms = [
        f"What is {a} + {b}?",
        f"What is {a} times {b}?",
        f"Calculate {a * b} divided by {b}.",
        f"Solve for x: {a}x + {b} = {a * c + b}",
        f"{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
        f"{name} has {a + b} {things} and gives {b} to {other}. How many are left?",
        f"A box holds {a} {things}. How many {things} are in {b} boxes? Show your work.",
        f"A train travels {a * 5} km in {c} hours. What is its average speed?",
        f"{name} earns ${a} an hour and works {b} hours. How much does {name} earn? Explain step by step.",
        f"What is {c}% of {a * 10}?",
        f"The sides of a rectangle are {a} cm and {b} cm. What is its area? What is its perimeter?",
        f"{a} {things} cost ${a * c}. How much do {b} {things} cost?",
    ]
    return pick(rng, forms)


def request(rng: np.random.Generator, passages: Sequence[str]) -> str:
    """One user request; `passages` are texts the teacher wrote earlier, for summaries and grounded questions."""
    words = {
        "name": pick(rng, NAMES),
        "things": pick(rng, THINGS),
        "place": pick(rng, PLACES),
        "topic": pick(rng, TOPICS),
        "other": pick(rng, TOPICS),
    }
    kind = int(rng.integers(6))
    if kind == 0:
        return f"Write {pick(rng, FORMS)} about {words['topic']}."
    if kind == 1:
        return pick(rng, QUESTIONS).format(**words)
    if kind == 2:
        return mathematics(rng)
    if kind == 3:
        sentence = pick(rng, SENTENCES).format(**words)
        language = pick(rng, LANGUAGES)
        return pick(rng, [f"Translate into {language}: {sentence}", f'How do you say "{sentence}" in {language}?'])
    passage, second = pick(rng, list(passages)), pick(rng, list(passages))
    word = pick(rng, [w.strip(".,:;!?*\"'") for w in passage.split() if len(w) > 5] or ["it"])
    question = pick(rng, QUESTIONS).format(topic=word, other=words["other"])
    form = pick(rng, SUMMARY if kind == 4 else GROUNDED)
    return form.format(passage=passage, second=second[:300], word=word, question=question)
