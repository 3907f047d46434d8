"""What the survey `decompose` is made of: parts carried through blocks, its rivals, deletion."""
