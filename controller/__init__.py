"""Study 3: how much of a vision-language model to run, by image, question and latency budget."""
