rank-profile mood inherits default {
    inputs {
        query(wanted) tensor<float>(mood{}): {calm: 1.0}
    }
    function mood_match() {
        expression: sum(query(wanted) * attribute(mood))
    }
    first-phase {
        expression: mood_match
    }
    match-features inherits default {
        mood_match
    }
}
