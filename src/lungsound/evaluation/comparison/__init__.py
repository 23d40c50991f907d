"""Two methods on the same cycles: is one better, and how many patients would tell?"""
