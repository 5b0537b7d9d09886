//! The whole graph of the model, to ask what stateright cannot: from which states an end can be
//! reached.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
};

use stateright::Model;

use crate::{
    protocol::{Action, Protocol},
    world::World,
};

pub type Question = fn(&World) -> bool;

/// States as numbers in the order in which they were found, and the moves between them that need no
/// fault.
pub struct Graph {
    numbers: HashMap<u64, u32>,
    /// Which state, and by which moves it goes on; sorted by where they lead.
    moves: Vec<(u32, u32)>,
    pub depth: usize,
    /// Per question, which states it marks.
    marked: Vec<Vec<bool>>,
}

impl Graph {
    /// Explores everything, and asks each question of every state.
    pub fn explore(protocol: &Protocol, questions: &[Question]) -> Self {
        Self::explore_through(protocol, questions, &mut |_| {})
    }

    /// The same, and shows each state once.
    pub fn explore_through(protocol: &Protocol, questions: &[Question], show: &mut impl FnMut(&World)) -> Self {
        let marked = vec![Vec::new(); questions.len()];
        let mut graph = Self { numbers: HashMap::new(), moves: Vec::new(), depth: 0, marked };
        let mut level = Vec::new();
        for world in protocol.init_states() {
            let number = graph.number(&world, questions).0;
            level.push((number, world));
        }
        while !level.is_empty() {
            let mut next_level = Vec::new();
            for (from, world) in level {
                show(&world);
                for (action, next) in protocol.next_steps(&world) {
                    let (number, is_new) = graph.number(&next, questions);
                    if !matches!(action, Action::Fault(_)) {
                        graph.moves.push((number, from));
                    }
                    if is_new {
                        next_level.push((number, next));
                    }
                }
            }
            graph.depth += 1;
            level = next_level;
        }
        graph.moves.sort_unstable();
        graph
    }

    /// The state's number, and whether it is a new one.
    fn number(&mut self, world: &World, questions: &[Question]) -> (u32, bool) {
        let next = u32::try_from(self.numbers.len()).expect("fewer than 2^32 states");
        let number = *self.numbers.entry(fingerprint(world)).or_insert(next);
        if number == next {
            for (marked, question) in self.marked.iter_mut().zip(questions) {
                marked.push(question(world));
            }
        }
        (number, number == next)
    }

    pub fn knows(&self, world: &World) -> bool {
        self.numbers.contains_key(&fingerprint(world))
    }

    pub fn states(&self) -> usize {
        self.numbers.len()
    }

    pub fn moves(&self) -> usize {
        self.moves.len()
    }

    /// How many states the question marks.
    pub fn count(&self, question: usize) -> usize {
        self.marked[question].iter().filter(|marked| **marked).count()
    }

    /// From how many of the states that `from` marks no state can be reached, without a fault, that
    /// `to` marks.
    pub fn stuck(&self, from: usize, to: usize) -> usize {
        let mut reaches = self.marked[to].clone();
        let mut open: Vec<u32> = (0..self.states() as u32).filter(|number| reaches[*number as usize]).collect();
        while let Some(number) = open.pop() {
            let start = self.moves.partition_point(|(to, _)| *to < number);
            for (_, before) in self.moves[start..].iter().take_while(|(to, _)| *to == number) {
                if !std::mem::replace(&mut reaches[*before as usize], true) {
                    open.push(*before);
                }
            }
        }
        self.marked[from].iter().zip(&reaches).filter(|(from, reaches)| **from && !**reaches).count()
    }
}

/// The shortest way to a state that is asked for.
pub fn shortest(protocol: &Protocol, asked: impl Fn(&World) -> bool) -> Option<Vec<Action>> {
    let mut known = HashSet::new();
    let mut ways: Vec<(usize, Option<Action>)> = Vec::new();
    let mut level: Vec<_> = protocol.init_states().into_iter().map(|world| (0, None, world)).collect();
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (from, action, world) in level {
            if !known.insert(fingerprint(&world)) {
                continue;
            }
            ways.push((from, action));
            let here = ways.len() - 1;
            if asked(&world) {
                return Some(way_to(here, &ways));
            }
            next_level.extend(protocol.next_steps(&world).into_iter().map(|(action, next)| (here, Some(action), next)));
        }
        level = next_level;
    }
    None
}

fn way_to(mut here: usize, ways: &[(usize, Option<Action>)]) -> Vec<Action> {
    let mut actions = Vec::new();
    while let (from, Some(action)) = ways[here] {
        actions.push(action);
        here = from;
    }
    actions.reverse();
    actions
}

fn fingerprint(world: &impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(world)
}
