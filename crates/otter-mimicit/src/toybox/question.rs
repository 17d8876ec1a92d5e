//! Questions about scenes: every family but binding, whose words need an episode around them.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::binding::BindingEpisode;
use super::held_out::MadeUpWord;
use super::language::{
    CHANGES, COLOUR_NAMES, NUMBER_NAMES, QuestionKind, RELATIONS, SHAPE_NAMES, SIZE_NAMES, YES_NO,
};
use super::scene::{Colour, Concept, MAX_OBJECTS, Object, Scene, Shape, Size, WORLD_SIDE, random_size};

/// How many candidates an open answer is offered with.
const OPEN_CANDIDATES: usize = 4;

/// A question about one or two scenes, with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Kind of the question.
    pub kind: QuestionKind,
    /// One scene per picture.
    pub scenes: Vec<Scene>,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// What the pictures show, in words: stands in for them when a language model is pre-trained.
    pub description: String,
    /// Answers to choose from; the right one is among them.
    pub candidates: Vec<String>,
    /// The concept asked for, then the others of the episode (binding only).
    pub concepts: Vec<Concept>,
}

/// Makes a question. The answers of a kind are taken in turn as `rank` grows, so that any run of
/// ranks is balanced; everything else is drawn from `random`. A [`QuestionKind::BoundWord`] alone
/// names a concept by a training word that nothing has introduced.
pub fn make_example(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    match kind {
        QuestionKind::Colour | QuestionKind::Shape | QuestionKind::Size | QuestionKind::Describe => {
            about_single(kind, rank, random)
        }
        QuestionKind::ColourOfShape | QuestionKind::ShapeOfColour => about_one_of_several(kind, rank, random),
        QuestionKind::CountAll | QuestionKind::CountColour | QuestionKind::CountShape => {
            counting(kind, rank, random)
        }
        QuestionKind::RelatedObject | QuestionKind::RelationHolds => relation(kind, rank, random),
        QuestionKind::ChangedAttribute => changed_attribute(rank, random),
        QuestionKind::GoneObject => gone_object(rank, random),
        QuestionKind::BoundWord => {
            let words = MadeUpWord::list(false);
            let word = words[rank % words.len()];
            let episode = BindingEpisode { concepts: vec![Concept::random(random)], words: vec![word] };
            episode.turn(0, None, random)
        }
    }
}

/// A phrasing of the kind with its blanks filled.
pub(crate) fn phrase(kind: QuestionKind, blanks: &[(&str, &str)], random: &mut ChaCha8Rng) -> String {
    let phrasing = kind.table().phrasings.choose(random).copied().unwrap_or_default();
    blanks.iter().fold(phrasing.to_string(), |text, (blank, word)| text.replace(blank, word))
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
        QuestionKind::Colour => concept.colour = Colour::ALL[rank % Colour::ALL.len()],
        QuestionKind::Shape => concept.shape = Shape::ALL[rank % Shape::ALL.len()],
        QuestionKind::Size => size = Size::ALL[rank % Size::ALL.len()],
        _ => {
            concept = Concept::from_index(rank);
            size = Size::ALL[rank / Concept::COUNT % Size::ALL.len()];
        }
    }
    let object = Object::anywhere(concept, size, random);
    let (answer, candidates) = match kind {
        QuestionKind::Colour => (object.colour.name().to_string(), owned(&COLOUR_NAMES)),
        QuestionKind::Shape => (object.shape.name().to_string(), owned(&SHAPE_NAMES)),
        QuestionKind::Size => (object.size.name().to_string(), owned(&SIZE_NAMES)),
        _ => {
            let colour = other_of(&Colour::ALL, object.colour, random);
            let shape = other_of(&Shape::ALL, object.shape, random);
            let distractors = [
                Object { size: size.other(), ..object },
                Object { colour, ..object },
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
    let by_shape = kind == QuestionKind::ColourOfShape;
    let mut asked = Concept::random(random);
    if by_shape {
        asked.colour = Colour::ALL[rank % Colour::ALL.len()];
    } else {
        asked.shape = Shape::ALL[rank % Shape::ALL.len()];
    }
    let mut concepts = vec![asked];
    for _ in 0..*[1, 1, 2].choose(random).unwrap_or(&1) {
        let mut concept = Concept::random(random);
        if by_shape && concept.shape == asked.shape {
            concept.shape = other_of(&Shape::ALL, asked.shape, random);
        }
        if !by_shape && concept.colour == asked.colour {
            concept.colour = other_of(&Colour::ALL, asked.colour, random);
        }
        concepts.push(concept);
    }
    concepts.shuffle(random);
    let scene = Scene::in_cells(&concepts, random);
    if by_shape {
        let question = phrase(kind, &[("{shape}", asked.shape.name())], random);
        example(kind, scene, question, asked.colour.name(), owned(&COLOUR_NAMES))
    } else {
        let question = phrase(kind, &[("{colour}", asked.colour.name())], random);
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
                QuestionKind::CountColour => concept.colour = asked.colour,
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
            if kind == QuestionKind::CountColour {
                concept.colour = other_of(&Colour::ALL, asked.colour, random);
            } else {
                concept.shape = other_of(&Shape::ALL, asked.shape, random);
            }
            concept
        });
    }
    concepts.shuffle(random);
    let scene = Scene::in_cells(&concepts, random);
    let blanks = [("{colour}", asked.colour.name()), ("{shapes}", asked.shape.plural())];
    example(kind, scene, phrase(kind, &blanks, random), NUMBER_NAMES[count - 1], owned(&NUMBER_NAMES))
}

/// The relations in which `one` stands to `other`, as numbers into [`RELATIONS`].
fn relations_of(one: &Object, other: &Object) -> Vec<usize> {
    // Centres in one column (or row) of the grid are closer than a quarter of the picture.
    let apart = WORLD_SIDE / 4.0;
    let (x, y) = (one.x - other.x, one.y - other.y);
    let holds = [x < -apart, x > apart, y < -apart, y > apart];
    (0..RELATIONS.len()).filter(|&number| holds[number]).collect()
}

fn relation(kind: QuestionKind, rank: usize, random: &mut ChaCha8Rng) -> Example {
    let asked = Concept::from_index(rank / if kind == QuestionKind::RelationHolds { 2 } else { 1 });
    let anchor = Concept::from_index(
        // Any concept but the asked one.
        asked.colour as usize * Shape::ALL.len()
            + asked.shape as usize
            + random.random_range(1..Concept::COUNT),
    );
    let mut scene = Scene::in_cells(&[asked, anchor], random);
    let relations = relations_of(&scene.objects[0], &scene.objects[1]);
    let number = relations.choose(random).copied().unwrap_or(0);
    let description =
        format!("{} {} {}", scene.objects[0].phrase(), RELATIONS[number], scene.objects[1].phrase());
    if random.random_bool(0.5) {
        // Which of the two is drawn first must not tell which is asked for.
        scene.objects.swap(0, 1);
    }
    let mut made = if kind == QuestionKind::RelatedObject {
        let blanks = [("{relation}", RELATIONS[number]), ("{object}", &*anchor.phrase())];
        let distractors = vec![
            anchor.phrase(),
            Concept { colour: asked.colour, shape: anchor.shape }.phrase(),
            Concept { colour: anchor.colour, shape: asked.shape }.phrase(),
            Concept { colour: other_of(&Colour::ALL, asked.colour, random), ..asked }.phrase(),
            Concept { shape: other_of(&Shape::ALL, asked.shape, random), ..asked }.phrase(),
        ];
        let candidates = among(&asked.phrase(), distractors, random);
        example(kind, scene, phrase(kind, &blanks, random), asked.phrase(), candidates)
    } else {
        // The inverse relation is the number with its last bit flipped.
        let claimed = RELATIONS[number ^ (rank % 2)];
        let (object, other) = (asked.phrase(), anchor.phrase());
        let blanks = [("{relation}", claimed), ("{object}", &*object), ("{other}", &*other)];
        example(kind, scene, phrase(kind, &blanks, random), YES_NO[rank % 2], owned(&YES_NO))
    };
    made.description = description;
    made
}

fn changed_attribute(rank: usize, random: &mut ChaCha8Rng) -> Example {
    let kind = QuestionKind::ChangedAttribute;
    let (concept, size) = (Concept::random(random), random_size(random));
    let before = Object::anywhere_fitting(concept, size, Size::Large, random);
    let mut after = before;
    let change = rank % CHANGES.len();
    match change {
        0 => after.colour = other_of(&Colour::ALL, before.colour, random),
        1 => after.shape = other_of(&Shape::ALL, before.shape, random),
        2 => after.size = before.size.other(),
        _ => {}
    }
    let question = phrase(kind, &[], random);
    let mut made = example(kind, Scene::single(before), question, CHANGES[change], owned(&CHANGES));
    made.scenes.push(Scene::single(after));
    made.description = format!("{} to {}", before.phrase(), after.phrase());
    made
}

/// Two or three different objects, of which one is missing in the second picture.
fn gone_object(rank: usize, random: &mut ChaCha8Rng) -> Example {
    let kind = QuestionKind::GoneObject;
    let gone = Concept::from_index(rank);
    let mut concepts = vec![gone];
    let count = random.random_range(2..=3);
    while concepts.len() < count {
        let concept = Concept::random(random);
        if !concepts.contains(&concept) {
            concepts.push(concept);
        }
    }
    concepts.shuffle(random);
    let before = Scene::in_cells(&concepts, random);
    let mut after = before.clone();
    after.objects.retain(|object| object.concept() != gone);
    let mut distractors: Vec<String> =
        concepts.iter().filter(|&&concept| concept != gone).map(|concept| concept.phrase()).collect();
    distractors
        .push(Concept { colour: other_of(&Colour::ALL, gone.colour, random), shape: gone.shape }.phrase());
    distractors
        .push(Concept { shape: other_of(&Shape::ALL, gone.shape, random), colour: gone.colour }.phrase());
    let candidates = among(&gone.phrase(), distractors, random);
    let description = format!("{} to {}", before.description(), after.description());
    let mut made = example(kind, before, phrase(kind, &[], random), gone.phrase(), candidates);
    made.scenes.push(after);
    made.description = description;
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toybox::language::{Family, KINDS};
    use crate::toybox::random_stream;
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
            QuestionKind::Colour,
            QuestionKind::Shape,
            QuestionKind::Size,
            QuestionKind::ColourOfShape,
            QuestionKind::ShapeOfColour,
            QuestionKind::CountAll,
            QuestionKind::CountColour,
            QuestionKind::CountShape,
            QuestionKind::RelationHolds,
            QuestionKind::ChangedAttribute,
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
        for kind in [QuestionKind::ColourOfShape, QuestionKind::ShapeOfColour] {
            for made in some(kind, 100) {
                let named = |o: &&Object| {
                    let attribute =
                        if kind == QuestionKind::ColourOfShape { o.shape.name() } else { o.colour.name() };
                    made.question.split(' ').any(|word| word == attribute)
                };
                let asked: Vec<&Object> = made.scenes[0].objects.iter().filter(named).collect();
                assert_eq!(asked.len(), 1, "{made:?}");
                assert!(asked[0].phrase().contains(&made.answer));
            }
        }
        for (kind, pick) in [(QuestionKind::CountColour, 0), (QuestionKind::CountShape, 1)] {
            for made in some(kind, 100) {
                let named = |o: &&Object| {
                    let attribute = if pick == 0 { o.colour.name() } else { o.shape.plural() };
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
        for made in some(QuestionKind::GoneObject, 100) {
            assert_eq!(made.scenes[0].objects.len(), made.scenes[1].objects.len() + 1);
            assert!(made.scenes[1].objects.iter().all(|o| o.concept().phrase() != made.answer));
        }
    }
}
