"""The world: simulated ball games whose truth is known to the frame, with commentary over them.

Rules, files and grammar are in docs/world.md. What others use:

| function | module | what |
|---|---|---|
| `parse_facts(words, context)`, `parse_title(title)`, `Fact`, `Context` | `facts` | what timed words say |
| `speak(fact, register, spell)` | `facts` | the words of a fact; parsing is its exact inverse |
| `make_match(seed, options)` | `match` | a match: tracks of all players, events, camera |
| `truth(match)`, `holds(truth, fact, time)` | `truth` | every fact with its times; whether one is true and known |
| `render(match, times, size)` | `render` | frames, uint8 [n, height, width, 3] |
| `commentate(match, style, seed)` | `commentary` | timed words, each with its fact; another seed is another draw |
| `noisy(words, options, seed)` | `captions` | the same commentary as captions of the web have it |
| `questions(match, count, seed)` | `questions` | questions with answers |
| `write_dataset(options, out)` | `dataset` | videos or stored frames, annotations, truth files, tokenizer |
| `train_tokenizer(out)` | `vocabulary` | the SentencePiece tokenizer of this small vocabulary |

numpy, and sentencepiece for the tokenizer, are all that stored frames need; videos need PyAV.
"""
