rank-profile vector inherits default {

    first-phase {
        expression: semantic
    }
}
