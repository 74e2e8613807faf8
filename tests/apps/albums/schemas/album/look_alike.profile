rank-profile look_alike inherits default {
    inputs {
        query(picture) tensor<float>(x[4])
    }
    first-phase {
        expression: closeness(field, cover)
    }
    match-features {
        distance(field, cover)
    }
}
