"""What a version is like as a whole: coverage, diversity, long tail, CLIP score, CMMD."""
