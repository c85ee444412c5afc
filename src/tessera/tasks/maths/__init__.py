"""Whether two answers to a question of mathematics are equal: strings, then structure, then algebra."""
