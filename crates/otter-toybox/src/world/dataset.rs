//! The records of one data set, and which in-context examples each query gets.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use rand::seq::{IndexedRandom, SliceRandom, index};
use rayon::prelude::*;

use super::binding::BindingEpisode;
use super::example::Example;
use super::language::{CONCEPTS_PER_EPISODE, Family, KINDS, QuestionKind};
use super::options::ToyboxOptions;
use super::question::make_example;
use super::scene::{Size, random_size};
use super::seeding::random_stream;

/// Examples per kind that evaluation queries draw their context from; none of them is a query.
const SUPPORT_PER_KIND: usize = 64;

/// One instruction record.
pub(crate) struct Record {
    pub(crate) example: Example,
    /// Places of the records that can be its in-context examples.
    pub(crate) related: Vec<usize>,
}

/// One train file: queries with the places of their in-context examples, in order.
pub(crate) struct ContextList {
    /// Shots of an evaluation; none for training.
    pub(crate) shots: Option<usize>,
    pub(crate) contexts: Vec<(usize, Vec<usize>)>,
}

/// One data set in memory; pictures are drawn when it is written.
pub(crate) struct Dataset {
    pub(crate) family: Family,
    /// Prefix of the file names.
    pub(crate) code: String,
    /// Prefix of the ids, different for training and evaluation.
    pub(crate) id_prefix: String,
    /// Whether words and concept pairs are the held-out ones.
    pub(crate) held_out: bool,
    pub(crate) records: Vec<Record>,
    pub(crate) context_lists: Vec<ContextList>,
}

impl Dataset {
    /// The training set of a family.
    pub(crate) fn train(family: Family, options: &ToyboxOptions) -> Self {
        let code = family.code().to_string();
        let mut set = Self {
            family,
            id_prefix: code.clone(),
            code,
            held_out: false,
            records: Vec::new(),
            context_lists: vec![ContextList { shots: None, contexts: Vec::new() }],
        };
        if family == Family::Binding {
            set.fill_binding_train(options);
        } else {
            set.fill_train(options);
        }
        set
    }

    /// The evaluation sets of a family: binding has one with everything held out and one with
    /// nothing held out.
    pub(crate) fn evaluations(family: Family, options: &ToyboxOptions) -> Vec<Self> {
        let make = |code: String, held_out: bool| {
            let lists = options.eval_shots.iter();
            let mut set = Self {
                family,
                id_prefix: format!("{code}_EVAL"),
                code,
                held_out,
                records: Vec::new(),
                context_lists: lists
                    .map(|&shots| ContextList { shots: Some(shots), contexts: Vec::new() })
                    .collect(),
            };
            if family == Family::Binding {
                set.fill_binding_eval(options);
            } else {
                set.fill_eval(options);
            }
            set
        };
        let code = family.code().to_string();
        if family == Family::Binding {
            vec![make(code.clone(), true), make(format!("{code}_SEEN"), false)]
        } else {
            vec![make(code, false)]
        }
    }

    fn stream(&self, options: &ToyboxOptions, purpose: &str, number: usize) -> ChaCha8Rng {
        random_stream(options.seed, &format!("{} {purpose}", self.id_prefix), number as u64)
    }

    /// Number of queries.
    pub(crate) fn queries(&self) -> usize {
        self.context_lists.first().map_or(0, |list| list.contexts.len())
    }

    /// Makes the examples of a schedule.
    fn examples(
        &self,
        options: &ToyboxOptions,
        purpose: &str,
        plan: &[(QuestionKind, usize)],
    ) -> Vec<Record> {
        plan.par_iter()
            .enumerate()
            .map(|(number, &(kind, rank))| {
                let example = make_example(kind, rank, &mut self.stream(options, purpose, number));
                Record { example, related: Vec::new() }
            })
            .collect()
    }

    /// Every record is a query; its context is other records of the same kind.
    fn fill_train(&mut self, options: &ToyboxOptions) {
        let plan = schedule(self.family, options.train.of(self.family));
        self.records = self.examples(options, "example", &plan);
        let by_kind: Vec<(QuestionKind, Vec<usize>)> = kinds(self.family)
            .map(|kind| (kind, (0..plan.len()).filter(|&place| plan[place].0 == kind).collect()))
            .collect();
        for place in 0..plan.len() {
            let random = &mut self.stream(options, "context", place);
            let others = by_kind.iter().find(|(kind, _)| *kind == plan[place].0);
            let others = others.map_or(&[][..], |(_, places)| places.as_slice());
            let shots = random.random_range(0..=options.train_shots);
            let context = pick(others, shots, Some(place), random);
            self.records[place].related.clone_from(&context);
            self.context_lists[0].contexts.push((place, context));
        }
    }

    /// Queries first, then the support examples. The contexts with fewer shots are the beginnings
    /// of those with more, so that only the number of shots differs between the sets.
    fn fill_eval(&mut self, options: &ToyboxOptions) {
        let plan = schedule(self.family, options.eval.of(self.family));
        let most = options.eval_shots.iter().copied().max().unwrap_or(0);
        let per_kind = if most == 0 { 0 } else { SUPPORT_PER_KIND };
        let support: Vec<(QuestionKind, usize)> =
            kinds(self.family).flat_map(|kind| (0..per_kind).map(move |rank| (kind, rank))).collect();
        self.records = self.examples(options, "query", &plan);
        let supports = self.examples(options, "support", &support);
        self.records.extend(supports);
        for place in 0..plan.len() {
            let random = &mut self.stream(options, "context", place);
            let kind = plan[place].0;
            let places: Vec<usize> =
                (0..support.len()).filter(|&n| support[n].0 == kind).map(|n| plan.len() + n).collect();
            let context = pick(&places, most, None, random);
            for list in &mut self.context_lists {
                let shots = list.shots.unwrap_or(0).min(context.len());
                list.contexts.push((place, context[..shots].to_vec()));
            }
            self.records[place].related = context;
        }
    }

    fn fill_binding_train(&mut self, options: &ToyboxOptions) {
        let queries = options.train.binding;
        let episodes = queries.div_ceil(options.binding_queries);
        let made: Vec<EpisodeRecords> = (0..episodes)
            .into_par_iter()
            .map(|number| {
                let first_query = number * options.binding_queries;
                let count = options.binding_queries.min(queries - first_query);
                training_episode(options.binding_turns, count, &mut self.stream(options, "episode", number))
            })
            .collect();
        self.append_episodes(made);
    }

    fn fill_binding_eval(&mut self, options: &ToyboxOptions) {
        let made: Vec<EpisodeRecords> = (0..options.eval.binding.div_ceil(2))
            .into_par_iter()
            .map(|number| {
                let random = &mut self.stream(options, "episode", number);
                evaluation_episode(self.held_out, &options.eval_shots, random)
            })
            .collect();
        self.append_episodes(made);
    }

    fn append_episodes(&mut self, episodes: Vec<EpisodeRecords>) {
        for episode in episodes {
            let start = self.records.len();
            let shift = |places: &[usize]| places.iter().map(|place| start + place).collect::<Vec<_>>();
            let queries = episode.records.len() - episode.pool;
            let lists = &mut self.context_lists;
            for (place, example) in episode.records.into_iter().enumerate() {
                // An example can have all others of its episode as context, a query its own.
                let related = match place.checked_sub(episode.pool) {
                    None => (0..episode.pool).filter(|&other| other != place).collect(),
                    Some(query) => {
                        let longest =
                            episode.contexts.iter().map(|list| &list[query]).max_by_key(|c| c.len());
                        longest.cloned().unwrap_or_default()
                    }
                };
                self.records.push(Record { example, related: shift(&related) });
            }
            for (list, contexts) in lists.iter_mut().zip(&episode.contexts) {
                for query in 0..queries {
                    list.contexts.push((start + episode.pool + query, shift(&contexts[query])));
                }
            }
        }
    }
}

/// The records of one episode: a pool of examples, then the queries.
struct EpisodeRecords {
    records: Vec<Example>,
    /// Number of examples in front of the queries.
    pool: usize,
    /// Per context list and query: places in the pool.
    contexts: Vec<Vec<Vec<usize>>>,
}

/// A training episode. Each query has its own selection of the examples, with at least one of
/// every concept.
fn training_episode(turns: usize, queries: usize, random: &mut ChaCha8Rng) -> EpisodeRecords {
    let concepts = CONCEPTS_PER_EPISODE.choose(random).copied().unwrap_or(2);
    let episode = BindingEpisode::training(concepts, random);
    let concepts = episode.concepts.len();
    let per_concept = turns.div_ceil(concepts);
    let pool = concepts * per_concept;
    let mut records: Vec<Example> =
        (0..pool).map(|place| episode.turn(place / per_concept, None, random)).collect();
    let offset = random.random_range(0..concepts);
    let mut contexts = Vec::with_capacity(queries);
    for query in 0..queries {
        records.push(episode.turn(offset + query, None, random));
        let mut context: Vec<usize> = (0..concepts)
            .map(|concept| concept * per_concept + random.random_range(0..per_concept))
            .collect();
        let mut rest: Vec<usize> = (0..pool).filter(|place| !context.contains(place)).collect();
        rest.shuffle(random);
        let length = random.random_range(concepts..=turns.max(concepts));
        context.extend(rest.into_iter().take(length - concepts));
        context.shuffle(random);
        contexts.push(context);
    }
    EpisodeRecords { records, pool, contexts: vec![contexts] }
}

/// A two-way episode of evaluation with two queries, one of each concept, in the same context: each
/// word is right once, and the word that comes last in the context is right once. With one shot
/// the query has the size that the examples have not.
fn evaluation_episode(held_out: bool, shots: &[usize], random: &mut ChaCha8Rng) -> EpisodeRecords {
    let episode = BindingEpisode::two_way(held_out, random);
    let per_concept = shots.iter().copied().max().unwrap_or(0);
    let first_size = random_size(random);
    let size = |number: usize| if number.is_multiple_of(2) { first_size } else { first_size.other() };
    let mut records: Vec<Example> = Vec::with_capacity(2 * per_concept + 2);
    for concept in 0..2 {
        for number in 0..per_concept {
            records.push(episode.turn(concept, Some(size(number)), random));
        }
    }
    let query_size: Size = first_size.other();
    for concept in 0..2 {
        records.push(episode.turn(concept, Some(query_size), random));
    }
    let contexts = shots.iter().map(|&shots| {
        let mut context: Vec<usize> =
            (0..2).flat_map(|concept| (0..shots).map(move |number| concept * per_concept + number)).collect();
        context.shuffle(random);
        vec![context.clone(), context]
    });
    let contexts = contexts.collect();
    EpisodeRecords { records, pool: 2 * per_concept, contexts }
}

/// The kinds of a family.
fn kinds(family: Family) -> impl Iterator<Item = QuestionKind> {
    KINDS.iter().filter(move |table| table.family == family).map(|table| table.kind)
}

/// `count` kinds in proportion to their weights, evenly interleaved, each with its rank within its
/// kind.
fn schedule(family: Family, count: usize) -> Vec<(QuestionKind, usize)> {
    let tables: Vec<_> = KINDS.iter().filter(|table| table.family == family).collect();
    let total: i64 = tables.iter().map(|table| table.weight as i64).sum();
    let mut credit = vec![0i64; tables.len()];
    let mut ranks = vec![0usize; tables.len()];
    let next = |_| {
        for (credit, table) in credit.iter_mut().zip(&tables) {
            *credit += table.weight as i64;
        }
        let richest = (0..tables.len()).max_by_key(|&place| credit[place]).unwrap_or(0);
        credit[richest] -= total;
        ranks[richest] += 1;
        (tables[richest].kind, ranks[richest] - 1)
    };
    (0..count).map(next).collect()
}

/// Up to `count` different places in random order, without `except`.
fn pick(places: &[usize], count: usize, except: Option<usize>, random: &mut ChaCha8Rng) -> Vec<usize> {
    // One more than needed, in case the exception is among them.
    let drawn = index::sample(random, places.len(), (count + 1).min(places.len()));
    drawn.iter().map(|number| places[number]).filter(|&place| Some(place) != except).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_follows_the_weights() {
        let plan = schedule(Family::Attribute, 300);
        for table in KINDS.iter().filter(|table| table.family == Family::Attribute) {
            let ranks: Vec<usize> =
                plan.iter().filter(|(kind, _)| *kind == table.kind).map(|p| p.1).collect();
            assert_eq!(ranks.len(), table.weight * 300 / 20);
            assert_eq!(ranks, (0..ranks.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn picked_places_are_different_and_without_the_exception() {
        let places: Vec<usize> = (10..15).collect();
        for number in 0..100 {
            let random = &mut random_stream(0, "pick", number);
            let picked = pick(&places, 4, Some(12), random);
            let distinct: std::collections::BTreeSet<_> = picked.iter().collect();
            assert_eq!((picked.len(), distinct.len()), (4, 4));
            assert!(!picked.contains(&12));
            assert_eq!(pick(&places, 9, None, random).len(), 5);
            assert!(pick(&[], 3, None, random).is_empty());
        }
    }

    #[test]
    fn training_contexts_introduce_every_concept() {
        for number in 0..200 {
            let made = training_episode(8, 4, &mut random_stream(0, "episode", number));
            for (query, context) in made.contexts[0].iter().enumerate() {
                let asked = &made.records[made.pool + query];
                let words: std::collections::BTreeSet<&String> =
                    context.iter().map(|&place| &made.records[place].answer).collect();
                assert_eq!(words.len(), asked.candidates.len());
                assert!(context.len() <= 8 && words.contains(&asked.answer));
                let distinct: std::collections::BTreeSet<_> = context.iter().collect();
                assert_eq!(distinct.len(), context.len());
            }
        }
    }

    #[test]
    fn evaluation_contexts_have_the_shots_of_each_concept() {
        for number in 0..100 {
            let made = evaluation_episode(true, &[0, 1, 3], &mut random_stream(0, "episode", number));
            for (contexts, shots) in made.contexts.iter().zip([0, 1, 3]) {
                assert_eq!(contexts[0], contexts[1]);
                for query in 0..2 {
                    let asked = &made.records[made.pool + query];
                    for candidate in &asked.candidates {
                        let shown = contexts[query].iter().filter(|&&p| made.records[p].answer == *candidate);
                        assert_eq!(shown.count(), shots);
                    }
                    let size = asked.scenes[0].objects[0].size;
                    if shots == 1 {
                        let sizes =
                            contexts[query].iter().map(|&p| made.records[p].scenes[0].objects[0].size);
                        assert!(sizes.into_iter().all(|shown| shown != size));
                    }
                }
            }
        }
    }
}
