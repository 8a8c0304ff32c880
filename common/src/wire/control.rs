//! Control messages: one request enum per listener, one answer enum each. Every request is answered, so every sender
//! knows that it arrived; every request may arrive twice and is then answered from memory (see [`crate::transport`]).

use crate::data::{Facts, Form, Occurring, Schema};
use crate::error::Error;
use crate::experiment::Experiment;
use crate::home::Home;
use crate::ids::{InputId, JobId, SlaveId, StageRun};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::plan::TableOp;
use crate::report::{CacheUse, DiskUse, FilterUse, PackUse, SumUse};
use crate::scheduling::Scheduling;
use crate::wire::api;
use crate::wire::moved::{Copies, MoveId, Sent};
use crate::wire::slaves::{Member, Peer, Registration};
use crate::wire::snapshot::{Marked, Moment, ToKeeper, Wanted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A byte range of an input file, cut on block edges, with the hosts that hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The input.
    pub input: InputId,
    /// Its place in the input's list of splits: defines the order of rows.
    pub index: u32,
    /// The file: a local path or an hdfs:// URL.
    pub path: String,
    /// First byte.
    pub start: u64,
    /// Behind the last byte. A row belongs to the split in which it starts.
    pub end: u64,
    /// The file's length when it was listed.
    pub file_len: u64,
    /// Its modification time then, in milliseconds since 1970; 0 when unknown.
    pub modified: u64,
    /// How the file holds its rows: a compressed one is read whole, splits of a dataset file start and end with blocks.
    pub form: Form,
    /// Hosts that hold the split's bytes.
    pub hosts: Vec<String>,
}

/// Bytes of the least part of a split that is given away while the split is read.
pub const LEAST_PART: u64 = 256 << 10;

/// What to run where, for one stage run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The job.
    pub job: JobId,
    /// The stage run.
    pub run: StageRun,
    /// The stage's place in [`crate::plan::Plan::stages`].
    pub stage: u32,
    /// The innermost repeat's round, from 0.
    pub epoch: u64,
    /// (slave, workers) in worker order; slaves without workers are not listed.
    pub workers: Vec<(SlaveId, u32)>,
    /// The job's scalars.
    pub scalars: BTreeMap<String, f64>,
    /// The phase that begins, or has begun with a run beside it: it counts lone stages, groups of them, and operations.
    pub phase: u64,
    /// Where the tables live from now on, by table; none while a move of this phase is under way: [`ToSlave::Settle`] then
    /// follows.
    pub homes: Option<Vec<Home>>,
    /// The job's runs that go on beside it; all others are over.
    pub beside: Vec<StageRun>,
}

/// How a stage run went on one slave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The first failed worker's error (with its context), or none.
    pub error: Option<Error>,
    /// Merged over the slave's workers in worker order.
    pub metrics: Metrics,
    /// Sum over its workers.
    pub worker_seconds: f64,
    /// Of which waiting.
    pub wait_seconds: f64,
    /// The longest that one of them waited for the model to come.
    pub model_wait_seconds: f64,
    /// Bytes that its workers sent to other slaves.
    pub bytes_sent: u64,
    /// Bytes that they received from other slaves.
    pub bytes_received: u64,
    /// Rows that they took.
    pub rows: u64,
    /// How they kept in step.
    pub pace: Pace,
    /// Whether they raced for values.
    pub raced: bool,
    /// What they did with each table of the plan.
    pub tables: Vec<TableUse>,
    /// What of the tables here went to disk and came back since the stage before.
    pub model_disk: DiskUse,
    /// What they read of other slaves' shards through a cache.
    pub cache: CacheUse,
    /// What they updated of other slaves' shards in sums.
    pub sums: SumUse,
    /// What a filter held back of that.
    pub filter: FilterUse,
    /// What values to and from there took.
    pub packed: PackUse,
    /// The last lines of the slave's log, when a worker failed.
    pub log: Vec<String>,
    /// The largest resident memory of the slave since it opened a job while no other was open.
    pub peak_memory_bytes: u64,
}

/// What the workers of a stage run on one slave did with a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// Bytes of values that they read, here and from others.
    pub read_bytes: u64,
    /// Bytes of values in their updates.
    pub written_bytes: u64,
    /// Bytes of the table's values that this slave serves.
    pub held_bytes: u64,
}

/// A block that a slave has read: where in the input it starts, so that rows have the same order wherever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBlock {
    /// The split.
    pub split: u32,
    /// Where in its file the block's text starts.
    pub offset: u64,
    /// How many rows it has.
    pub rows: u32,
}

/// What a slave reports when it has read its part of an input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadDone {
    /// What the part holds.
    pub facts: Facts,
    /// Its features, to be counted with those of the other parts.
    pub occurring: Occurring,
    /// Its blocks, by their number on the slave; none of rows that are consumed.
    pub blocks: Vec<ReadBlock>,
    /// Splits that it read.
    pub splits: u64,
    /// Bytes read, as stored.
    pub bytes: u64,
    /// Of which local.
    pub local_bytes: u64,
    /// From its first request for a split to its last parsed row.
    pub seconds: f64,
    /// Bytes of its rows in memory.
    pub cached_bytes: u64,
    /// Bytes of its rows on disk.
    pub spilled_bytes: u64,
    /// Remarks for the user.
    pub notes: Vec<String>,
}

/// What the master's listener takes: from slaves first, then from clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMaster {
    /// A slave joins.
    Register(Registration),
    /// It lives. Sent every [`HEARTBEAT_MS`].
    Heartbeat {
        /// Who.
        slave: Member,
        /// As registered: what lost the master is another slave to it from then on.
        incarnation: u64,
    },
    /// It leaves in order.
    Leave {
        /// Who.
        slave: Member,
    },
    /// A reader asks for its next split.
    NextSplit {
        /// Who.
        slave: Member,
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
        /// Which reading it is, as [`ToSlave::Read`] said.
        time: u32,
        /// Splits that it has read to the end.
        read: u64,
    },
    /// A slave has read its part of an input, or failed at it. Answered when it comes, whoever the slave is.
    ReadDone {
        /// Who.
        slave: Member,
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
        /// Which reading it is, as [`ToSlave::Read`] said.
        time: u32,
        /// How it went.
        result: Result<ReadDone, Error>,
    },
    /// All workers of a stage run on a slave ended. Answered when it comes, whoever the slave is.
    StageDone {
        /// Who.
        slave: Member,
        /// The job.
        job: JobId,
        /// The stage run.
        run: StageRun,
        /// How it went.
        outcome: Outcome,
    },
    /// A client submits a job.
    Submit {
        /// The job's name in the registry.
        name: String,
        /// Its parameters as JSON.
        params: String,
        /// The hash of the plan that the client derived.
        plan_hash: u64,
        /// Splits are assigned in a fixed order without stealing, so that a second run gives the same bits.
        reproducible: bool,
        /// Made up by the client, so that a repeated submission is recognised.
        token: u64,
        /// When it is to run.
        scheduling: Scheduling,
        /// How it is to run, to see what comes of it.
        experiment: Experiment,
        /// Whether the client leaves it to the master and does not follow it.
        detached: bool,
    },
    /// A client wants a running job's model; answered by [`FromMaster::Snapshot`].
    Snapshot(Wanted),
    /// A client's request of the API; answered by [`FromMaster::Api`].
    Api(api::Request),
}

/// The master's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromMaster {
    /// Done.
    Ok,
    /// A slave was registered.
    Registered {
        /// What it calls itself from then on.
        slave: Member,
    },
    /// The identity in the message is not (or no longer) a live slave's, or another master's: register again.
    Unknown,
    /// The next split; none when all are given out.
    Split(Option<Split>),
    /// No split yet: ask again after so many milliseconds, or when one more was read to its end. To one that registers: whether
    /// the slave that has its name lives is not known yet.
    Later(u64),
    /// A job was accepted.
    Submitted(JobId),
    /// A model was saved, as it was then.
    Snapshot(Moment),
    /// What the API answers.
    Api(api::Answer),
}

/// How often a slave says that it lives.
pub const HEARTBEAT_MS: u64 = 500;
/// A slave that was silent for so long is gone.
pub const SILENCE_MS: u64 = 5_000;

/// What a slave's control listener takes: from the master first, then from other slaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToSlave {
    /// A job begins: derive its plan, make its shards. One that is open already begins anew with other slaves: its rows are
    /// kept, and read on.
    Open {
        /// The job.
        job: JobId,
        /// Its name in the registry.
        name: String,
        /// Its parameters as JSON.
        params: String,
        /// What the derived plan must hash to.
        plan_hash: u64,
        /// All slaves of the job, in shard order: chunk c of a table is served by slave c modulo their number.
        slaves: Vec<Peer>,
        /// What the receiver calls itself to this master.
        you: Member,
        /// How it is to run, to see what comes of it.
        experiment: Experiment,
    },
    /// Start pulling splits of an input.
    Read {
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
        /// Which reading it is: a job that starts over reads anew, and what comes late of the reading before belongs to none.
        time: u32,
        /// How to take its rows.
        schema: Schema,
    },
    /// Give away a part of a split that this slave has: the last part of what it has not begun to read. Answered by
    /// [`FromSlave::Kept`].
    Give {
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
        /// The split's place in the input's list.
        index: u32,
        /// The share of what is not read yet that it keeps; of a split that it has not begun it keeps nothing.
        keep: f64,
    },
    /// Every slave has read its part of an input.
    Facts {
        /// The job.
        job: JobId,
        /// The input.
        input: InputId,
        /// Of the whole input.
        facts: Facts,
    },
    /// Run workers. Answered at once; [`ToMaster::StageDone`] follows from each slave that [`Launch::workers`] lists, and with
    /// an error from any other that can't begin the run once it has applied what was left of those before. Goes
    /// to every slave of the job, since those without workers serve their shards under the stage's consistency too.
    Launch(Launch),
    /// Change the shards; answered by [`FromSlave::Numbers`].
    Ops {
        /// The job.
        job: JobId,
        /// The phase that begins; pending updates of stage runs so far come first.
        phase: u64,
        /// In this order.
        ops: Vec<TableOp>,
    },
    /// Send the chunks that this slave serves, and that are to live elsewhere, to where they are to live, and copies of chunks
    /// to where they are to be read. Answered by
    /// [`FromSlave::Sent`]. Nothing changes before that phase takes them over.
    Move {
        /// Which move.
        of: MoveId,
        /// Where the tables are to live, by table.
        homes: Vec<Home>,
        /// What is to be read elsewhere too.
        copies: Copies,
    },
    /// Of a snapshot; a [`ToKeeper::Mark`] is answered by [`FromSlave::Marked`].
    Snapshot(ToKeeper),
    /// The move that a launch left open is over: its stage run may use the tables.
    Settle {
        /// Which move.
        of: MoveId,
        /// The stage run.
        run: StageRun,
        /// Where the tables live from now on, by table: where they did, or where the move has brought them.
        homes: Vec<Home>,
        /// What is read elsewhere too until the next phase.
        copies: Copies,
    },
    /// End the workers of a stage run at their next call.
    CancelStage {
        /// The job.
        job: JobId,
        /// The stage run.
        run: StageRun,
        /// Why.
        reason: String,
    },
    /// A job ended: drop its rows and shards, stop its readers and workers.
    Close {
        /// The job.
        job: JobId,
    },
}

/// An operation's number in parts: of a squared norm those of the chunks that a slave serves, by chunk; of another
/// operation none. Summed in the order of the chunks, they give the same bits wherever the table lives.
pub type Partials = Vec<(u32, f64)>;

/// A slave's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromSlave {
    /// Done.
    Ok,
    /// The numbers of [`ToSlave::Ops`], by operation.
    Numbers(Vec<Partials>),
    /// Behind the last byte of the split that it keeps, if it gave anything away in a [`ToSlave::Give`].
    Kept(Option<u64>),
    /// What a slave sent in a [`ToSlave::Move`].
    Sent(Vec<Sent>),
    /// What it did with a [`ToKeeper::Mark`].
    Marked(Marked),
}
