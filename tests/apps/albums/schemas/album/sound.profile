rank-profile sound inherits look_alike, mood {
    inputs {
        query(sound) tensor<float>(x[8])
    }
    # The track that sounds most like the query's.
    function best_track() {
        expression: reduce(sum(query(sound) * attribute(sounds), x), max, track)
    }
    first-phase {
        expression: 0.1 * words + if (isNan(attribute(rating)), 0, attribute(rating))
    }
    match-features {
        best_track
        mood_match
    }
    global-phase {
        rerank-count: 20
        expression: normalize_linear(best_track) + reciprocal_rank(mood_match)
    }
}
