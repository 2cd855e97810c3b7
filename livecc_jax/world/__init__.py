"""The world: simulated ball games whose truth is known to the frame, with commentary over them.

Rules, files and grammar are in docs/world.md. What others use:

| function | module | what |
|---|---|---|
| `parse_facts(words, context)` | `facts` | what timed words state; also `parse_text`, `parse_title` |
| `speak(fact, register, spell)` | `facts` | the words of a fact; parsing is its exact inverse |
| `make_match(seed, options)` | `rules` | a match: tracks of all players, events, camera |
| `truth(match)`, `read_truth(path)` | `truth` | every fact with its times; `Truth.holds(fact, time)` |
| `render(match, times, size)` | `render` | frames, uint8 [n, height, width, 3] |
| `commentate(match, style, seed)` | `commentary` | timed words with their facts; a seed is a draw |
| `lineup(match, style, seed)` | `commentary` | the words that introduce players before a match |
| `noisy(words, options, seed)` | `captions` | the same commentary as captions of the web have it |
| `questions(true, seed)` | `questions` | questions with options and answers |
| `write_dataset(options, out)` | `dataset` | videos or stored frames, annotations, truth, tokenizer |
| `train_tokenizer(out)` | `vocabulary` | the SentencePiece tokenizer of this small vocabulary |

numpy, and sentencepiece for the tokenizer, are all that stored frames need; videos need PyAV.
"""
