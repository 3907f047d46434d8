"""Features in words: who writes the sentences, what is asked, and what the sentences are worth."""
