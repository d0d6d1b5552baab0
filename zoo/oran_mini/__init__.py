"""O-RAN knowledge: passages, and multiple-choice questions that need one, two or more of them."""
