//! Questions about scenes: every family but binding, whose words need an episode around them.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::binding::BindingEpisode;
use super::example::{Example, phrase};
use super::held_out::MadeUpWord;
use super::language::{
    CHANGES, COLOR_NAMES, NOTHING, NUMBER_NAMES, ORDINALS, QuestionKind, RELATIONS, SHAPE_NAMES, SIZE_NAMES,
    YES_NO,
};
use super::scene::{Color, Concept, MAX_OBJECTS, Object, Scene, Shape, Size, WORLD_SIDE, random_size};

/// How many candidates an open answer is offered with.
const OPEN_CANDIDATES: usize = 4;

/// Makes a question. The answers of a kind are taken in turn as `rank` grows, so that any run of
/// ranks is balanced; everything else is drawn from `random`. A [`QuestionKind::BoundWord`] alone
/// names a concept by a training word that nothing has introduced.
pub fn make_example(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    match kind {
        QuestionKind::Color | QuestionKind::Shape | QuestionKind::Size | QuestionKind::Describe => {
            about_single(kind, rank, random)
        }
        QuestionKind::ColorOfShape | QuestionKind::ShapeOfColor => about_one_of_several(kind, rank, random),
        QuestionKind::CountAll | QuestionKind::CountColor | QuestionKind::CountShape => {
            counting(kind, rank, random)
        }
        QuestionKind::RelatedObject | QuestionKind::RelationHolds => relation(kind, rank, random),
        QuestionKind::Change => change(rank, random),
        QuestionKind::ColorInPicture | QuestionKind::ShapeInPicture => in_one_of_two(kind, rank, random),
        QuestionKind::MoreObjects => more_objects(rank, random),
        QuestionKind::BoundWord => {
            let words = MadeUpWord::list(false);
            let word = words[rank % words.len()];
            let episode = BindingEpisode { concepts: vec![Concept::random(random)], words: vec![word] };
            episode.turn(0, None, random)
        }
    }
}

fn example(
    kind: QuestionKind,
    scene: Scene,
    question: String,
    answer: impl Into<String>,
    candidates: Vec<String>,
) -> Example {
    let description = scene.description();
    Example {
        kind,
        scenes: vec![scene],
        question,
        answer: answer.into(),
        description,
        candidates,
        concepts: Vec::new(),
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_string()).collect()
}

/// The answer among distractors in random order, without repetitions.
fn among(answer: &str, distractors: Vec<String>, random: &mut ChaCha8Rng) -> Vec<String> {
    let mut candidates = vec![answer.to_string()];
    for distractor in distractors {
        if candidates.len() < OPEN_CANDIDATES && !candidates.contains(&distractor) {
            candidates.push(distractor);
        }
    }
    candidates.shuffle(random);
    candidates
}

fn about_single(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    let (mut concept, mut size) = (Concept::random(random), random_size(random));
    match kind {
        QuestionKind::Color => concept.color = Color::ALL[rank % Color::ALL.len()],
        QuestionKind::Shape => concept.shape = Shape::ALL[rank % Shape::ALL.len()],
        QuestionKind::Size => size = Size::ALL[rank % Size::ALL.len()],
        _ => {
            concept = Concept::from_index(rank);
            size = Size::ALL[rank / Concept::COUNT % Size::ALL.len()];
        }
    }
    let object = Object::anywhere(concept, size, random);
    let (answer, candidates) = match kind {
        QuestionKind::Color => (object.color.name().to_string(), owned(&COLOR_NAMES)),
        QuestionKind::Shape => (object.shape.name().to_string(), owned(&SHAPE_NAMES)),
        QuestionKind::Size => (object.size.name().to_string(), owned(&SIZE_NAMES)),
        _ => {
            let color = other_of(&Color::ALL, object.color, random);
            let shape = other_of(&Shape::ALL, object.shape, random);
            let distractors = [
                Object { size: size.other(), ..object },
                Object { color, ..object },
                Object { shape, ..object },
            ];
            let distractors = distractors.iter().map(Object::phrase).collect();
            (object.phrase(), among(&object.phrase(), distractors, random))
        }
    };
    example(kind, Scene::single(object), phrase(kind, &[], random), answer, candidates)
}

/// An element drawn uniformly from the others.
fn other_of<T: Copy + PartialEq>(all: &[T], not: T, random: &mut ChaCha8Rng) -> T {
    let others: Vec<T> = all.iter().copied().filter(|&element| element != not).collect();
    others.choose(random).copied().unwrap_or(not)
}

/// Two or three objects; the one asked for is the only one with the named attribute.
fn about_one_of_several(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    let by_shape = kind == QuestionKind::ColorOfShape;
    let mut asked = Concept::random(random);
    if by_shape {
        asked.color = Color::ALL[rank % Color::ALL.len()];
    } else {
        asked.shape = Shape::ALL[rank % Shape::ALL.len()];
    }
    let mut concepts = vec![asked];
    for _ in 0..*[1, 1, 2].choose(random).unwrap_or(&1) {
        let mut concept = Concept::random(random);
        if by_shape && concept.shape == asked.shape {
            concept.shape = other_of(&Shape::ALL, asked.shape, random);
        }
        if !by_shape && concept.color == asked.color {
            concept.color = other_of(&Color::ALL, asked.color, random);
        }
        concepts.push(concept);
    }
    concepts.shuffle(random);
    let scene = Scene::in_cells(&concepts, random);
    if by_shape {
        let question = phrase(kind, &[("{shape}", asked.shape.name())], random);
        example(kind, scene, question, asked.color.name(), owned(&COLOR_NAMES))
    } else {
        let question = phrase(kind, &[("{color}", asked.color.name())], random);
        example(kind, scene, question, asked.shape.name(), owned(&SHAPE_NAMES))
    }
}

fn counting(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    let count = rank % MAX_OBJECTS + 1;
    let asked = Concept::random(random);
    // Counted objects, then others up to at most four.
    let mut concepts: Vec<Concept> = (0..count)
        .map(|_| {
            let mut concept = Concept::random(random);
            match kind {
                QuestionKind::CountColor => concept.color = asked.color,
                QuestionKind::CountShape => concept.shape = asked.shape,
                _ => {}
            }
            concept
        })
        .collect();
    if kind != QuestionKind::CountAll {
        let total = random.random_range(count..=MAX_OBJECTS);
        concepts.resize_with(total, || {
            let mut concept = Concept::random(random);
            if kind == QuestionKind::CountColor {
                concept.color = other_of(&Color::ALL, asked.color, random);
            } else {
                concept.shape = other_of(&Shape::ALL, asked.shape, random);
            }
            concept
        });
    }
    concepts.shuffle(random);
    let scene = Scene::in_cells(&concepts, random);
    let blanks = [("{color}", asked.color.name()), ("{shapes}", asked.shape.plural())];
    example(kind, scene, phrase(kind, &blanks, random), NUMBER_NAMES[count - 1], owned(&NUMBER_NAMES))
}

/// The relations in which `one` stands to `other`, as numbers into [`RELATIONS`].
fn relations_of(one: &Object, other: &Object) -> Vec<usize> {
    // Centers in one column (or row) of the grid are closer than a quarter of the picture.
    let apart = WORLD_SIDE / 4.0;
    let (x, y) = (one.x - other.x, one.y - other.y);
    let holds = [x < -apart, x > apart, y < -apart, y > apart];
    (0..RELATIONS.len()).filter(|&number| holds[number]).collect()
}

fn relation(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    let asked = Concept::from_index(rank / if kind == QuestionKind::RelationHolds { 2 } else { 1 });
    let anchor = Concept::from_index(
        // Any concept but the asked one.
        asked.color as usize * Shape::ALL.len()
            + asked.shape as usize
            + random.random_range(1..Concept::COUNT),
    );
    let mut scene = Scene::in_cells(&[asked, anchor], random);
    let relations = relations_of(&scene.objects[0], &scene.objects[1]);
    let number = relations.choose(random).copied().unwrap_or(0);
    // The words tell the relation in either direction; the inverse is the number with its last bit
    // flipped.
    let (near, told, far) =
        if random.random_bool(0.5) { (0, RELATIONS[number], 1) } else { (1, RELATIONS[number ^ 1], 0) };
    let description = format!("{} {told} {}", scene.objects[near].phrase(), scene.objects[far].phrase());
    if random.random_bool(0.5) {
        // Which of the two is drawn first must not tell which is asked for.
        scene.objects.swap(0, 1);
    }
    let mut made = if kind == QuestionKind::RelatedObject {
        let blanks = [("{relation}", RELATIONS[number]), ("{object}", &*anchor.phrase())];
        let distractors = vec![
            anchor.phrase(),
            Concept { color: asked.color, shape: anchor.shape }.phrase(),
            Concept { color: anchor.color, shape: asked.shape }.phrase(),
            Concept { color: other_of(&Color::ALL, asked.color, random), ..asked }.phrase(),
            Concept { shape: other_of(&Shape::ALL, asked.shape, random), ..asked }.phrase(),
        ];
        let candidates = among(&asked.phrase(), distractors, random);
        example(kind, scene, phrase(kind, &blanks, random), asked.phrase(), candidates)
    } else {
        let claimed = RELATIONS[number ^ (rank % 2)];
        let (object, other) = (asked.phrase(), anchor.phrase());
        let blanks = [("{relation}", claimed), ("{object}", &*object), ("{other}", &*other)];
        example(kind, scene, phrase(kind, &blanks, random), YES_NO[rank % 2], owned(&YES_NO))
    };
    made.description = description;
    made
}

/// Makes a question about two pictures.
fn comparison(
    kind: QuestionKind,
    [before, after]: [Scene; 2],
    question: String,
    answer: impl Into<String>,
    candidates: Vec<String>,
) -> Example {
    let [first, second] = ORDINALS;
    let description = format!("{first} {} {second} {}", before.description(), after.description());
    let mut made = example(kind, before, question, answer, candidates);
    made.scenes.push(after);
    made.description = description;
    made
}

/// The same object in the same place, with another color, shape or size, or as it was.
fn change(rank: usize, random: &mut ChaCha8Rng) -> Example {
    let (concept, size) = (Concept::random(random), random_size(random));
    let before = Object::anywhere_fitting(concept, size, Size::Large, random);
    let said = |attribute: usize, from: &str, to: &str| format!("{} from {from} to {to}", CHANGES[attribute]);
    // One way in which each attribute can change.
    let color = other_of(&Color::ALL, before.color, random);
    let shape = other_of(&Shape::ALL, before.shape, random);
    let changes = [
        (Object { color, ..before }, said(0, before.color.name(), color.name())),
        (Object { shape, ..before }, said(1, before.shape.name(), shape.name())),
        (Object { size: size.other(), ..before }, said(2, size.name(), size.other().name())),
        (before, NOTHING.to_string()),
    ];
    let (after, answer) = changes[rank % changes.len()].clone();
    let distractors = changes.into_iter().map(|(_, answer)| answer).collect();
    let candidates = among(&answer, distractors, random);
    let scenes = [Scene::single(before), Scene::single(after)];
    comparison(QuestionKind::Change, scenes, phrase(QuestionKind::Change, &[], random), answer, candidates)
}

/// Two pictures of one object each; the question is about one of them.
fn in_one_of_two(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    let mut asked = Concept::random(random);
    let by_color = kind == QuestionKind::ColorInPicture;
    if by_color {
        asked.color = Color::ALL[rank % Color::ALL.len()];
    } else {
        asked.shape = Shape::ALL[rank % Shape::ALL.len()];
    }
    let place = random.random_range(0..2);
    let mut concepts = [Concept::random(random); 2];
    concepts[place] = asked;
    let scenes = concepts.map(|concept| {
        let size = random_size(random);
        Scene::single(Object::anywhere(concept, size, random))
    });
    let question = phrase(kind, &[("{ordinal}", ORDINALS[place])], random);
    if by_color {
        comparison(kind, scenes, question, asked.color.name(), owned(&COLOR_NAMES))
    } else {
        comparison(kind, scenes, question, asked.shape.name(), owned(&SHAPE_NAMES))
    }
}

/// Two pictures with different numbers of objects.
fn more_objects(rank: usize, random: &mut ChaCha8Rng) -> Example {
    let kind = QuestionKind::MoreObjects;
    let more = random.random_range(2..=MAX_OBJECTS);
    let fewer = random.random_range(1..more);
    let counts = if rank.is_multiple_of(2) { [more, fewer] } else { [fewer, more] };
    let scenes = counts.map(|count| {
        let concepts: Vec<Concept> = (0..count).map(|_| Concept::random(random)).collect();
        Scene::in_cells(&concepts, random)
    });
    let candidates: Vec<String> = ORDINALS.iter().map(|ordinal| format!("the {ordinal}")).collect();
    let answer = candidates[rank % 2].clone();
    comparison(kind, scenes, phrase(kind, &[], random), answer, candidates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::language::{Family, KINDS};
    use crate::world::random_stream;
    use std::collections::BTreeMap;

    fn some(kind: QuestionKind, count: usize) -> Vec<Example> {
        (0..count).map(|rank| make_example(kind, rank, &mut random_stream(11, "test", rank as u64))).collect()
    }

    #[test]
    fn answers_are_among_the_candidates_and_blanks_are_filled() {
        for table in KINDS {
            for made in some(table.kind, 200) {
                assert_eq!(made.candidates.iter().filter(|c| **c == made.answer).count(), 1, "{made:?}");
                assert!(!made.question.contains('{'), "{}", made.question);
                assert_eq!(made.kind, table.kind);
                assert_eq!(made.scenes.len(), if table.family == Family::Difference { 2 } else { 1 });
            }
        }
    }

    #[test]
    fn closed_answers_are_balanced() {
        for kind in [
            QuestionKind::Color,
            QuestionKind::Shape,
            QuestionKind::Size,
            QuestionKind::ColorOfShape,
            QuestionKind::ShapeOfColor,
            QuestionKind::CountAll,
            QuestionKind::CountColor,
            QuestionKind::CountShape,
            QuestionKind::RelationHolds,
            QuestionKind::ColorInPicture,
            QuestionKind::ShapeInPicture,
            QuestionKind::MoreObjects,
        ] {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for made in some(kind, 240) {
                *counts.entry(made.answer).or_default() += 1;
            }
            let candidates = some(kind, 1)[0].candidates.len();
            assert_eq!(counts.len(), candidates, "{kind:?}");
            assert!(counts.values().all(|&count| count == 240 / candidates), "{kind:?} {counts:?}");
        }
    }

    #[test]
    fn answers_are_true_of_the_scene() {
        for kind in [QuestionKind::ColorOfShape, QuestionKind::ShapeOfColor] {
            for made in some(kind, 100) {
                let named = |o: &&Object| {
                    let attribute =
                        if kind == QuestionKind::ColorOfShape { o.shape.name() } else { o.color.name() };
                    made.question.split(' ').any(|word| word == attribute)
                };
                let asked: Vec<&Object> = made.scenes[0].objects.iter().filter(named).collect();
                assert_eq!(asked.len(), 1, "{made:?}");
                assert!(asked[0].phrase().contains(&made.answer));
            }
        }
        for (kind, pick) in [(QuestionKind::CountColor, 0), (QuestionKind::CountShape, 1)] {
            for made in some(kind, 100) {
                let named = |o: &&Object| {
                    let attribute = if pick == 0 { o.color.name() } else { o.shape.plural() };
                    made.question.split(' ').any(|word| word == attribute)
                };
                let count = made.scenes[0].objects.iter().filter(named).count();
                assert_eq!(NUMBER_NAMES[count - 1], made.answer, "{made:?}");
            }
        }
        for made in some(QuestionKind::RelationHolds, 100) {
            let mentioned =
                |o: &Object| made.question.find(&format!("the {}", o.concept().phrase())).unwrap_or(999);
            let mut objects = made.scenes[0].objects.clone();
            objects.sort_by_key(mentioned);
            let true_ones = relations_of(&objects[0], &objects[1]);
            let holds = true_ones.iter().any(|&number| made.question.contains(RELATIONS[number]));
            assert_eq!(made.answer == "yes", holds, "{made:?}");
        }
        for made in some(QuestionKind::RelatedObject, 100) {
            let (asked, anchor): (Vec<&Object>, Vec<&Object>) =
                made.scenes[0].objects.iter().partition(|o| o.concept().phrase() == made.answer);
            let true_ones = relations_of(asked[0], anchor[0]);
            assert!(true_ones.iter().any(|&number| made.question.contains(RELATIONS[number])), "{made:?}");
        }
        for made in some(QuestionKind::MoreObjects, 100) {
            let first_has_more = made.scenes[0].objects.len() > made.scenes[1].objects.len();
            assert_eq!(made.answer == "the first", first_has_more);
            assert_ne!(made.scenes[0].objects.len(), made.scenes[1].objects.len());
        }
        for kind in [QuestionKind::ColorInPicture, QuestionKind::ShapeInPicture] {
            for made in some(kind, 100) {
                let place = usize::from(made.question.contains("second"));
                assert!(made.scenes[place].objects[0].phrase().contains(&made.answer));
            }
        }
        for made in some(QuestionKind::Change, 100) {
            let (before, after) = (made.scenes[0].objects[0], made.scenes[1].objects[0]);
            let said = match made.answer.split_once(" from ") {
                None => before == after,
                Some((_, values)) => values.split_once(" to ").is_some_and(|(from, to)| {
                    let mut words: Vec<String> = before.phrase().split(' ').map(String::from).collect();
                    let place = words.iter().position(|word| word == from);
                    place.is_some_and(|place| {
                        words[place] = to.to_string();
                        words.join(" ") == after.phrase()
                    })
                }),
            };
            assert!(said && (before.x, before.y) == (after.x, after.y), "{made:?}");
            assert_eq!(made.candidates.len(), 4);
            assert!(made.candidates.contains(&NOTHING.to_string()));
        }
    }
}
