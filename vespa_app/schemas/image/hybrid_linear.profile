rank-profile hybrid_linear inherits hybrid {
    # The same candidates as hybrid, blended by their scores instead of their ranks. alpha is the semantic part's weight.

    inputs {
        query(alpha) double: 0.5
    }

    # Scores are scaled to 0..1 over the hits that reach this phase. The conditions keep a part that the query does not
    # have at 0: normalize_linear gives 0.5 to every hit when all scores are equal.
    global-phase {
        rerank-count: 1000
        expression: query(alpha) * if (semantic > 0, normalize_linear(semantic), 0) + (1 - query(alpha)) * if (lexical > 0, normalize_linear(lexical), 0)
    }
}
