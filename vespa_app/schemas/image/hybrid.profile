rank-profile hybrid inherits default {
    # Reciprocal rank fusion of three lists, for
    #     where ({targetHits:100}nearestNeighbor(embedding,q)) or userInput(@text)

    # The weight of the third list. Of a query of one or two words nearly all hits of the words hold them all: the list says
    # nothing then, and its share would put each of them before the best that only the vector found. Clients send 0 for
    # such a query: input.query(whole)=0.
    inputs {
        query(whole) double: 1
    }

    # Above 0 only for documents that the nearestNeighbor operator itself produced. semantic cannot tell them apart: it is
    # computed for documents that only words found as well.
    function near() {
        expression: rawScore(embedding)
    }

    # Only the best rerank-count of this phase reach the fusion, so both lists' hundred best must be among them. Neither
    # score alone does that: the vector's own neighbours come first, all the others follow by BM25 squeezed below 1.
    first-phase {
        expression: if (near > 0, 1 + near, lexical / (1 + lexical))
    }

    # The third list: all documents that hold every word of the query in one caption share its first rank, 1 / (60 + 1), times
    # query(whole). BM25 adds the captions of a document up, and would let many words in several captions pass one caption
    # that says it all. complete is computed for the hits that reach this phase only.
    #
    # reciprocal_rank ranks every hit, those with score 0 too: without the conditions, documents that are not in a list
    # would still earn a share of it. near and semantic rank the vector's own list alike, but near costs nothing: it is
    # known already, while semantic would compare the query with every hit that only words found. 1000 leaves room for
    # both lists even where nearestNeighbor is exact and exposes several times its targetHits (about 860 of 200,000
    # documents for 100).
    global-phase {
        rerank-count: 1000
        expression: if (lexical > 0, reciprocal_rank(lexical), 0) + if (near > 0, reciprocal_rank(near), 0) + if (complete > 0.999, query(whole) / 61, 0)
    }

    match-features {
        bm25(captions)
        closeness(field,embedding)
        rawScore(embedding)
        elementCompleteness(captions).queryCompleteness
    }
}
