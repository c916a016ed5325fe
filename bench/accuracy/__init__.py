"""What pruning costs in answers, on a small vision-language model that is trained here."""
