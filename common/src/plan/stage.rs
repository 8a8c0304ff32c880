//! One stage of a plan: its workers, and what they run.

use super::{Consistency, Input, Significant, Table};
use crate::error::Result;
use crate::ids::{InputId, TableId};
use crate::worker::Worker;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A stage's number of worker threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Threads {
    /// So many over all slaves.
    Count(u32),
    /// Every slot of every slave that the job uses.
    All,
    /// On each slave that the job uses as many as it has slots, but no more than cores; and the job uses no more slaves of a
    /// machine than its cores keep busy, and than the rows are worth ([`super::Plan::slave_bytes`]). What a stage has of which
    /// nobody says a number: more workers than cores are never faster. The same on each run.
    Cores,
    /// So many on each slave that the job uses, whether the stage has an input or not.
    PerSlave(u32),
    /// So many on one slave.
    OneSlave(u32),
    /// Over all slaves, at least the first, and up to the second where slots are free when it starts. What workers keep from
    /// run to run may not depend on how many they are.
    Range(u32, u32),
    /// So many on one slave, at each run on another one, until it was on all slaves of the job; then from the start.
    Visit(u32),
    /// As many over all slaves as the engine finds best: as the stage repeats it tries a few counts and fits a curve. What
    /// workers keep from run to run may not depend on how many they are.
    Auto,
    /// The same by an exhaustive search, whose result later jobs of the same plan and as much data begin with.
    Offline,
}

impl Threads {
    /// Whether the engine finds the number by trying.
    pub fn found(self) -> bool {
        matches!(self, Threads::Auto | Threads::Offline)
    }
}

/// The function that a stage's workers run.
pub type StageFn = Arc<dyn Fn(&mut Worker<'_>) -> Result<()> + Send + Sync>;

/// One stage of the plan.
#[derive(Clone)]
pub struct StageSpec {
    /// Name in reports and errors.
    pub name: String,
    /// Its workers.
    pub threads: Threads,
    /// What they must see of one another.
    pub consistency: Consistency,
    /// What they may hold back of their updates.
    pub filter: Option<Significant>,
    /// Tables whose values it may read and update rounded.
    pub may_round: Vec<TableId>,
    /// The input whose rows it passes over; it then runs on every slave that holds rows of it, but for [`Threads::OneSlave`], whose
    /// workers see the rows of their slave alone.
    pub input: Option<InputId>,
    /// Whether nobody passes over these rows again.
    pub consumes: bool,
    /// The input of which it draws rows, and which share of all of them its slave is to have; it runs anywhere.
    pub draws: Option<(InputId, f64)>,
    /// Tables that its workers read and never update: the slaves may have copies of them while it runs.
    pub reads: Vec<TableId>,
    /// Tables that its workers update, as far as that is declared.
    pub updates: Vec<TableId>,
    /// Whether it is one of a [`super::Step::Together`]: it then touches nothing but what it declares.
    pub together: bool,
    /// The names of those of its group that must have ended before it begins.
    pub after: Vec<String>,
    /// The name of the one slave that it may run on.
    pub on: Option<String>,
    /// Bytes of memory that it needs on each slave where it has workers: it waits until no other stages ask for them.
    pub memory: u64,
    /// What each worker runs.
    pub run: StageFn,
}

impl StageSpec {
    /// A stage on as many slots as there are cores, under BSP, that stands alone.
    pub(super) fn new(name: &str, run: impl Fn(&mut Worker<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Self {
            name: name.to_owned(),
            threads: Threads::Cores,
            consistency: Consistency::Bsp,
            filter: None,
            may_round: Vec::new(),
            input: None,
            consumes: false,
            draws: None,
            on: None,
            memory: 0,
            reads: Vec::new(),
            updates: Vec::new(),
            together: false,
            after: Vec::new(),
            run: Arc::new(run),
        }
    }
}

/// Refines the stage that was just added.
pub struct StageBuilder<'a>(pub(super) &'a mut StageSpec);

impl StageBuilder<'_> {
    /// Its number of workers.
    pub fn threads(self, threads: Threads) -> Self {
        self.0.threads = threads;
        self
    }

    /// The one slave, by name, that it may run on. It may not pass over rows, which lie on all of the job's slaves.
    pub fn on(self, slave: &str) -> Self {
        self.0.on = Some(slave.to_owned());
        self
    }

    /// Bytes of memory that it needs on each slave where it has workers. The scheduler counts them against what the slaves
    /// offer; nobody measures what workers take.
    pub fn memory(self, bytes: u64) -> Self {
        self.0.memory = bytes;
        self
    }

    /// Its consistency model.
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.0.consistency = consistency;
        self
    }

    /// Whether its workers hold back small updates of other slaves' shards, by key lists or ranges, in tables of floats
    /// whose updates add up; a stage that updates none such is refused. At clock c of a worker, others then miss at most, of each key, what it has added since clock
    /// c - clocks and what is less than the share: also under BSP, and also the worker itself. Not under SparseSSP.
    pub fn filter(self, filter: Option<Significant>) -> Self {
        self.0.filter = filter;
        self
    }

    /// A table whose values may come to its workers, and whose updates may go to the shards, rounded to 16-bit floats, where
    /// [`super::Compression::F16`] is asked for: to 11 bits each, and to nothing below 2^-39 of the largest one of a message.
    pub fn may_round(self, table: Table<f32>) -> Self {
        self.0.may_round.push(table.id);
        self
    }

    /// The input whose rows it passes over: each slave's workers those of their slave. To see all rows it must run on every slave,
    /// not on one, as by [`Threads::OneSlave`].
    pub fn input(self, input: Input) -> Self {
        self.0.input = Some(input.id);
        self
    }

    /// The input over whose rows it passes once, and nobody else: they are not kept, and the memory of those that are behind is
    /// filled with those that come. A second pass goes on where the first one is, and behind its end there is nothing; a second
    /// look at a block by its place, and numbering the features, are errors. No more of a slave's
    /// workers get rows than it takes to keep up with the reading; the others wait until none is left.
    pub fn consumes(self, input: Input) -> Self {
        self.0.consumes = true;
        self.input(input)
    }

    /// A table that its workers only read; an update of it is then an error. Where each slave reads much of it, it may get a
    /// copy of its own for the time of the stage.
    pub fn reads<T>(self, table: Table<T>) -> Self {
        self.0.reads.push(table.id);
        self
    }

    /// A table that its workers update, and may read. Only a stage of a [`super::Steps::together`] need say so.
    pub fn updates<T>(self, table: Table<T>) -> Self {
        self.0.updates.push(table.id);
        self
    }

    /// The stages above it in its [`super::Steps::together`] that must have ended before it begins.
    pub fn after(self, stages: &[&str]) -> Self {
        self.0.after.extend(stages.iter().map(|name| (*name).to_owned()));
        self
    }

    /// The input of which it draws rows, by [`Worker::draw`]: what the slave lacks of `share` of all rows, from above 0 to
    /// 1, it fetches from others once, in random blocks.
    pub fn draws(self, input: Input, share: f64) -> Self {
        self.0.draws = Some((input.id, share));
        self
    }
}
