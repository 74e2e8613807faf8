rank-profile vector_patches inherits default {

    first-phase {
        expression: closeness(field, patches)
    }

    match-features {
        bm25(captions)
        closeness(field,patches)
        closest(patches)
    }
}
