"""The prototypical network against scikit-learn; its other tests are in test_learners.py."""

from dataclasses import replace

import numpy as np
from sklearn.neighbors import NearestCentroid
from tiny import IMAGES, prototypes

from metacl.evaluation.check import random_episode

SPEC = replace(IMAGES, symbols=16)


def test_it_answers_as_the_nearest_centroid():
    learner, episode = prototypes(SPEC), random_episode(SPEC, 0, batch_size=3, tasks=9)
    answers = learner.predict(learner.learn(learner.init_state(3), episode.stream), episode.queries.x).argmax(-1)
    z, queries = (learner.encode(part.x).detach().numpy() for part in (episode.stream, episode.queries))
    for b in range(3):
        expected = NearestCentroid().fit(z[b], episode.stream.y[b].numpy()).predict(queries[b])
        np.testing.assert_array_equal(answers[b], expected)
        assert len(set(expected)) > 3
