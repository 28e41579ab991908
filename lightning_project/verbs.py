"""The one list of verbs: what each does, for the help; nothing here may be slow to import."""

# Verbs over a config: methods of the launcher or of its Trainer.
WITH_CONFIG = {
    "fit": "train, judge on the validation part, write the run folder",
    "validate": "judge a checkpoint on the validation part",
    "test": "judge a checkpoint on the test part",
    "predict": "write the predictions for new data",
    "explain": "show the words that the network looked at, and the two most probable classes",
    "export": "write the network as ONNX, torch.export and int8, and compare them with it",
    "augment": "make the rows that a fit would add to its training part; no training",
    "audit": "look for leaks, conflicts and duplicates; no training",
}
# Verbs over run folders or over many runs: each is the function of its name in the file of its name.
WITHOUT_CONFIG = {
    "compare": "put run folders of one system side by side",
    "ensemble": "combine the predictions of several runs, judged against the best of them",
    "decide": "choose thresholds, temperature and abstention on validation, judge them on test",
    "rounds": "train several times, each round on what the one before it found (boosting, pseudo-labels)",
    "generate": "write text with a language model",
    "compress": "make a language model smaller (int8, pruning, a student), and say what it costs",
    "serve": "answer prompts over HTTP with a language model",
    "ablate": "run a table of variants over seeds or folds and say which helped",
    "cache": "fetch the images of records into a folder ahead of training",
    "prepare": "read and clean machine recordings into arrays ahead of training",
}
VERBS = {**WITH_CONFIG, **WITHOUT_CONFIG}
