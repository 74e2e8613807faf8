rank-profile lexical inherits default {
    # A .profile file must begin with "rank-profile": Vespa's parser takes no comment or empty line before it.

    first-phase {
        expression: lexical
    }
}
