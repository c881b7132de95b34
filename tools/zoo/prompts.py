"""The prompts that the corpus was sampled with: every combination of a form, a topic and a manner.

>>> make_prompt(0)
'Write a short story about a lighthouse keeper, with a lot of concrete detail.'
>>> make_prompt(COUNT) == make_prompt(0)
True
>>> len({make_prompt(i) for i in range(5000)})
5000
"""

from __future__ import annotations

FORMS = (
    "Write a short story about {}", "Explain to a curious adult what one should know about {}",
    "Write an encyclopedia entry about {}", "Write a dialogue between two friends who disagree about {}",
    "Write a letter to a relative about {}", "Give step by step advice to a beginner about {}",
    "Write a newspaper report about {}", "Write a diary entry of someone occupied with {}",
    "Explain to a child of eight everything about {}", "List common questions and their answers about {}",
    "Write a speech for a small audience about {}", "Tell the history of {}",
    "Compare two opposite opinions about {}", "Write a review by a demanding critic of a book about {}",
    "Write a scene of a play about {}", "Describe a day in a town that is proud of {}",
    "Write an interview with an expert on {}", "Write a lecture for first-year students about {}",
    "Describe the problems one meets with {}, and how they are solved", "Write a folk tale about {}",
    "Write the opening chapter of a novel about {}", "Write an essay on why people care about {}",
    "Write a travel guide's page for visitors interested in {}", "Write minutes of a club meeting about {}",
    "Correct some widespread misunderstandings about {}",
    "Write an encouraging message to someone who struggles with {}",
    "Write a technical description of {}", "Write a long blog post about {}",
    "Write a radio programme's script about {}", "Summarise what is known and what is not known about {}",
    "Describe from memory a childhood full of {}", "Write a debate between a teacher and a student about {}",
)  # fmt: skip

TOPICS = (
    "a lighthouse keeper", "the migration of birds", "sourdough bread", "the invention of the telescope",
    "a lost dog", "tides and the moon", "learning the violin", "a village market", "how bridges carry weight",
    "coral reefs", "a stubborn grandmother", "the printing press", "mountain rescue", "beekeeping",
    "a missed train", "the water cycle", "chess openings", "old maps", "volcanoes", "an apprentice carpenter",
    "vaccines", "a family restaurant", "glaciers", "the first day at a new school", "wind turbines",
    "a storm at sea", "fractions and decimals", "a retired astronaut", "desert plants", "the silk road",
    "a broken clock", "photosynthesis", "marathon running", "a mysterious letter", "earthquakes",
    "growing tomatoes", "the human heart", "a travelling circus", "solar panels", "the Roman aqueducts",
    "a shy inventor", "river otters", "night shifts in a hospital", "the theory of evolution", "jazz music",
    "an abandoned factory", "recycling", "the northern lights", "a rivalry between two bakers", "sleep",
    "railway engineering", "a forgotten language", "wolves", "saving money", "the Great Fire of London",
    "a chess-playing robot", "rainforests", "the violin maker's workshop", "gravity", "street photography",
    "a wedding in winter", "ants and their colonies", "the history of paper", "public libraries", "a dragon",
    "the nervous system", "city planning", "a lonely giant", "ice skating", "the discovery of penicillin",
    "a detective in a small town", "whales", "cheese making", "the age of sail", "computer programming",
    "a haunted theatre", "soil", "negotiation", "the Olympic games", "a talking cat", "black holes",
    "knitting", "the French Revolution", "a flood", "mushrooms", "the art of listening", "electric cars",
    "a queen without a kingdom", "probability", "pottery", "the fall of an empire", "a school garden",
    "the immune system", "falconry", "a long friendship", "comets", "the postal service", "cooking for a crowd",
    "an expedition to the pole", "democracy", "the sense of smell", "a secret tunnel", "bicycles",
    "sign language", "a drought", "horses", "the ocean floor", "superstition", "an orchestra", "steel",
    "a neighbour's quarrel", "bats", "the calendar", "teaching mathematics", "a magic lamp", "rivers",
    "first aid", "the gold rush", "an old sailor", "honesty", "satellites", "a chocolate factory",
    "the food chain", "moving to another country", "archaeology", "a thunderstorm", "spices", "the stock market",
    "a clever thief", "dinosaurs", "meditation", "shipwrecks", "the alphabet", "a football team that never wins",
    "plate tectonics", "gardens in the city", "a blind musician", "the periodic table", "camping",
    "a king's advisor", "penguins", "insurance", "the Renaissance", "a robot that wants to paint", "owls",
    "apple orchards", "the speed of light", "volunteering", "an unexpected inheritance", "salt", "elections",
    "a journey by balloon", "memory", "woodworking", "the plague", "a new bridge over the river", "spiders",
    "job interviews", "the atmosphere of Mars", "a puppet theatre", "coffee", "medieval castles", "kindness",
    "a snowed-in inn", "genes and inheritance", "fishing villages", "crossword puzzles", "a rebellious prince",
    "forest fires", "glass", "parenting", "the invention of zero", "an elephant sanctuary", "dance",
    "a bank robbery", "clouds", "negotiating peace", "tea ceremonies", "the Industrial Revolution", "a lost city",
    "bacteria", "budgeting for a household", "a marathon swimmer", "magnets", "opera", "an underground river",
    "translating poetry", "the Moon landing", "a rude customer", "seeds", "trade unions", "folk songs",
    "a mountain village school", "kidneys", "aeroplanes", "a haircut gone wrong", "the Great Wall", "patience",
    "an island without clocks", "cement", "hedgehogs", "stage fright", "the abolition of slavery", "a kite",
    "statistics in daily life", "ferries", "a gardener's feud", "lightning", "the ethics of lying", "sheepdogs",
    "antibiotics", "a night train", "fashion", "the Vikings", "a tax inspector", "frogs", "writing a will",
    "nuclear energy", "a painter's last work", "potatoes", "the Internet", "growing old", "a mountain pass",
    "circuits and batteries", "courage", "tropical diseases", "a secondhand bookshop", "swimming", "the Aztecs",
    "an honest politician", "butterflies", "debt", "lenses and mirrors", "a village without children", "rice",
)  # fmt: skip

MANNERS = (
    "with a lot of concrete detail", "in plain words", "with a surprising turn", "in a dry, factual tone",
    "with some humour", "and mention at least three numbers", "in a warm and personal tone",
    "and include a short example", "from the point of view of an outsider", "in careful, formal English",
    "and end with a question", "with several people speaking", "set a hundred years ago",
    "and name causes and consequences", "as briefly as is sensible", "and begin in the middle of things",
)  # fmt: skip

COUNT = len(FORMS) * len(TOPICS) * len(MANNERS)
STRIDE = 40_009  # a prime: successive prompts differ in form, topic and manner, and every combination comes once


def make_prompt(index: int) -> str:
    """Return one prompt.

    Args:
        index: Number of the document. The prompts repeat after `COUNT` documents.

    Returns:
        One sentence.
    """
    combination = index * STRIDE % COUNT
    rest, form = divmod(combination, len(FORMS))
    manner, topic = divmod(rest, len(TOPICS))
    return f"{FORMS[form].format(TOPICS[topic])}, {MANNERS[manner]}."
