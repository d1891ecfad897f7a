//! Operations: what the project requests of this device, performed at most once, and reported.
//!
//! | file | contents |
//! |---|---|
//! | `orders` | received orders: checked (`check`, `prepare`), then put into the `journal` |
//! | `journal`, `entry` | every received operation, and its state |
//! | `queue`, `runner` | the open runs; the loop that starts them |
//! | `kind` | how each kind of operation is queued, started and recovered |
//! | `exec`, `supervise` | one program: started and recorded; its input, outputs and end |
//! | `builtins`, `diagnostics` | operations that the agent performs itself |
//! | `upload` | sending a file to the server |
//! | `record`, `recover` | a run's events; runs that an earlier agent process left open |
//! | `spool`, `send` | the output of programs, stored and sent |
//! | `output_client` | requests to the servers with pieces of outputs and files |
//!
//! Invariant: a run starts only after the journal entry that records its start is on disk.
//! Invariant: a run in the journal has one end, recorded in the transaction that closes it.

mod builtins;
mod check;
mod diagnostics;
mod entry;
mod exec;
mod journal;
mod kind;
mod live;
mod options;
mod orders;
mod output_client;
mod prepare;
mod queue;
mod record;
mod recover;
mod runner;
mod send;
mod sent_file;
mod spool;
mod supervise;
mod upload;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::builtins::Builtins;
pub(crate) use self::diagnostics::CollectDiagnostics;
pub use self::options::OperationOptions;
pub(crate) use self::orders::Orders;
use self::output_client::OutputClient;
use self::queue::RunQueue;
use self::record::Runs;
pub use self::recover::{INTERRUPTED, LEFTOVERS_ENDED, STOPPED};
use self::runner::Runner;
use self::spool::Spools;
pub(crate) use self::upload::UploadJob;
use self::upload::Uploads;
use crate::clock::ServerClock;
use crate::connection::Connection;
use crate::identity::Identity;
use crate::log_level::LogLevel;
use crate::outbox::Recorder;
use crate::store::{Store, StoreError};

/// What operations need from the rest of the agent.
pub(crate) struct Dependencies {
    pub(crate) identity: Arc<Identity>,
    pub(crate) store: Arc<Store>,
    pub(crate) recorder: Recorder,
    pub(crate) connection: Arc<Connection>,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) log_level: Arc<LogLevel>,
    pub(crate) max_concurrent_runs: watch::Receiver<usize>,
    pub(crate) collect_diagnostics: CollectDiagnostics,
}

/// The operations of a running agent.
pub(crate) struct Operations {
    runs: Arc<Runs>,
    clock: Arc<ServerClock>,
    orders: Arc<Orders>,
    runner: Runner,
    outputs: OutputClient,
    restart: CancellationToken,
}

impl Operations {
    /// Restores the open runs from the journal. Records nothing.
    pub(crate) fn open(
        dependencies: Dependencies,
        options: OperationOptions,
    ) -> Result<Self, StoreError> {
        let Dependencies { identity, store, recorder, connection, clock, .. } = dependencies;
        let queue = RunQueue::open(&store, Arc::clone(&clock))?;
        let spools = Spools::new(store.folder().path(), options.spool_bytes);
        let runs = Arc::new(Runs { store, recorder, queue, spools, launcher: Arc::default() });
        let outputs = OutputClient { identity: Arc::clone(&identity), connection };
        let restart = CancellationToken::new();
        let orders = Orders {
            identity,
            runs: Arc::clone(&runs),
            clock: Arc::clone(&clock),
            policy: options.policy.clone(),
            max_concurrent_runs: dependencies.max_concurrent_runs.clone(),
        };
        let builtins = Builtins {
            runs: Arc::clone(&runs),
            log_level: dependencies.log_level,
            restart: restart.clone(),
            reboot_commands: options.reboot.clone(),
        };
        let uploads = Uploads {
            runs: Arc::clone(&runs),
            server: outputs.clone(),
            policy: options.policy.clone(),
        };
        let runner = Runner {
            runs: Arc::clone(&runs),
            options,
            clock: Arc::clone(&clock),
            max_concurrent_runs: dependencies.max_concurrent_runs,
            builtins,
            uploads,
            collect_diagnostics: dependencies.collect_diagnostics,
        };
        Ok(Self { runs, clock, orders: Arc::new(orders), runner, outputs, restart })
    }

    /// The receiver of orders.
    pub(crate) fn orders(&self) -> Arc<Orders> {
        Arc::clone(&self.orders)
    }

    /// Canceled when the agent must restart.
    pub(crate) const fn restart(&self) -> &CancellationToken {
        &self.restart
    }

    /// Performs operations, indefinitely.
    pub(crate) async fn run(&self) {
        self.runner.run().await;
    }

    /// Sends the outputs of programs, indefinitely.
    pub(crate) async fn send_outputs(&self) {
        send::send_outputs(&self.outputs, &self.runs.spools).await;
    }

    /// Records interrupted runs when the agent stops.
    pub(crate) fn interrupt(&self) {
        recover::interrupt(&self.runs);
    }

    /// Deletes the journal's entries of runs that ended long ago.
    pub(crate) fn prune_journal(&self) {
        runner::prune_journal(&self.runs, &self.clock);
    }
}
