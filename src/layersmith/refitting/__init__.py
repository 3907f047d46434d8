"""`refit`: make a trained model faster or smaller under a budget, and prove what it cost. `pipeline` is the way in."""
