"""The words of the world: colours, marks of shirts, teams, names, numbers, and what is no commentary.

Every list is fixed, because the vocabulary of the tokenizer and the parser of facts are made from them.
"""

from __future__ import annotations

# Shirts. The referee is black and the pitch is green, so no team is. Values are RGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "blue": (35, 60, 235),
    "yellow": (250, 225, 30),
    "white": (250, 250, 250),
    "pink": (255, 110, 205),
    "cyan": (40, 225, 235),
}

# Marks of field players; a team starts with four of them, and substitutes wear others.
MARKS = ("circle", "square", "triangle", "diamond", "cross", "ring")
KEEPER = "keeper"
ALL_MARKS = (*MARKS, KEEPER)

TEAMS = (
    "Foxes", "Owls", "Bears", "Hawks", "Lions", "Wolves", "Otters", "Ravens",
    "Badgers", "Herons", "Tigers", "Falcons",
)  # fmt: skip

NAMES = (
    "Ada", "Bo", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ida", "Jonas", "Kira", "Leo",
    "Mona", "Nils", "Olga", "Pia", "Quinn", "Rosa", "Sven", "Tilda", "Uma", "Vera", "Willow", "Xenia",
    "Yara", "Zeno", "Arlo", "Bela", "Cato", "Dina", "Ezra", "Flora",
)  # fmt: skip

NUMBERS = (
    "nil", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
)  # fmt: skip
ORDINALS = (
    "", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth", "twentieth",
)  # fmt: skip

# Said in captions of the web, unrelated to the picture. None of these holds a phrase of the grammar.
CHATTER = (
    "welcome back everyone",
    "I hope you are well",
    "my coffee is cold",
    "it rained all morning here",
    "thank you for watching",
    "the traffic was terrible today",
    "my brother called me yesterday",
    "we will talk about that later",
    "please leave a comment below",
    "what a lovely evening",
)
ADVERTISEMENTS = (
    "this video is sponsored by fresh bread for breakfast",
    "use my code and save on new shoes",
    "subscribe and ring that bell today",
    "download our free app now",
    "try our new phone with twice the battery",
)
FILLERS = ("uh", "um", "well", "you know", "so")

# What a recogniser hears instead; other words are heard as one of their neighbours in the lexicon.
MISHEARD: dict[str, tuple[str, ...]] = {
    "red": ("read", "bread"),
    "blue": ("blew", "glue"),
    "white": ("quite", "why"),
    "pink": ("think", "drink"),
    "cyan": ("sigh", "science"),
    "yellow": ("hello", "jello"),
    "circle": ("sir", "cycle"),
    "square": ("where", "stare"),
    "triangle": ("try", "angle"),
    "diamond": ("demand", "dime"),
    "cross": ("across", "boss"),
    "ring": ("bring", "wing"),
    "keeper": ("deeper", "paper"),
    "passes": ("pauses", "houses"),
    "to": ("too", "do"),
    "goal": ("go", "gold"),
    "two": ("too", "who"),
    "one": ("on", "fun"),
    "foul": ("fowl", "full"),
    "the": ("a", "they"),
    "ball": ("bowl", "wall"),
}
ANYTHING_MISHEARD = ("and", "then", "a", "but", "there", "here")
