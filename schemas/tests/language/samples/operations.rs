//! Samples of operations and runs: the events, and what is sent about them.

use std::collections::BTreeMap;

use muster_schemas::cose::Kind;
use muster_schemas::events::{
    AbortCause, Action, ClosedState, DownloadLinkMade, EraseCause, Exec, FileSummary,
    OperationAborted, OperationPaused, OperationRequested, OperationResumed, OutputSummary,
    PrivatePart, Program, RefusalCause, RequestedTarget, RunAccepted, RunCancelRequested,
    RunCanceled, RunClosed, RunDispatched, RunExpired, RunFailed, RunInterrupted, RunRejected,
    RunReport, RunRequested, RunStarted, RunSucceeded, RunTimedOut, Upload, UploadErased,
    UploadStalled,
};
use muster_schemas::wire::{
    CancelOrder, FileStored, OutputPiece, OutputStream, OutputTaken, PrivateInput, RunDelivery,
    RunOrder,
};
use muster_schemas::{DeviceId, Epoch, Hash, OperationId, ProjectId, Timestamp, codec};

use super::{Message, Sample, digest, id, operation_key};

const NOW: Timestamp = Timestamp(1_795_420_800_000_000);

fn operation() -> OperationId {
    OperationId(id(20))
}

fn exec() -> Action {
    Action::Exec(Exec {
        program: Program::Argv(vec!["/usr/bin/tee".into(), "-a".into(), "/tmp/süß".into()]),
        cwd: Some("/tmp".into()),
        user: Some("robot".into()),
        env: vec!["LANG".into(), "TOKEN".into()],
        background: true,
    })
}

fn upload() -> Action {
    Action::Upload(Upload {
        path: "/var/log/app".into(),
        remove_source: true,
        replace: true,
        keep_seconds: Some(2_592_000),
        max_bytes: Some(64 << 30),
        bytes_per_second: Some(1 << 20),
    })
}

fn private_input() -> PrivateInput {
    PrivateInput {
        salt: vec![5; 32],
        env: BTreeMap::from([("TOKEN".to_owned(), "secret".to_owned())]),
        stdin: b"line\0one\n".to_vec(),
    }
}

fn private() -> PrivatePart {
    let bytes = codec::encode(&private_input());
    PrivatePart { hash: Hash::of(&bytes), bytes: bytes.len() as u64, stdin_bytes: 9 }
}

fn report() -> RunReport {
    RunReport {
        operation: operation(),
        exit_code: Some(3),
        signal: Some(9),
        problem: Some("the program was ended by SIGKILL".into()),
        started_at: Some(NOW),
        ended_at: Some(Timestamp(NOW.micros() + 1_500_000)),
        user_us: 1_200,
        system_us: 800,
        peak_memory: 3 << 20,
        stdout: OutputSummary { bytes: 5 << 20, kept: 4 << 20, hash: Some(digest("output")) },
        stderr: OutputSummary::default(),
        file: None,
    }
}

fn order() -> RunOrder {
    RunOrder {
        project: ProjectId::default_project(),
        device: DeviceId(id(1)),
        epoch: Epoch(2),
        operation: operation(),
        issued_at: NOW,
        expires_at: Timestamp(NOW.micros() + 86_400_000_000),
        timeout_ms: 300_000,
        actor: "token:0198c0de-7001-7abc-8def-0123456789ab".into(),
        action: exec(),
        private: Some(private()),
    }
}

pub(super) fn requested(target: RequestedTarget) -> OperationRequested {
    OperationRequested {
        action: exec(),
        target,
        devices: 10_000,
        private: Some(private()),
        timeout_ms: 300_000,
        expires_at: order().expires_at,
        at_once: 100,
        stop_after: Some(5),
    }
}

fn events() -> Vec<Sample> {
    let requested = requested(RequestedTarget::Selector("env=prod".into()));
    let sealed = operation_key().seal(Kind::Run, codec::encode(&order()));
    vec![
        Sample::event(requested),
        Sample::event(OperationPaused {}),
        Sample::event(OperationResumed {}),
        Sample::event(OperationAborted { cause: AbortCause::Failures }),
        Sample::event(RunRequested {}),
        Sample::event(RunDispatched { epoch: Epoch(2), order: sealed.clone() }),
        Sample::event(RunCancelRequested {}),
        Sample::event(RunClosed {
            state: ClosedState::Expired,
            reason: "the device was offline until it expired".into(),
        }),
        Sample::event(RunAccepted { operation: operation(), order: Hash::of(&sealed) }),
        Sample::event(RunStarted {
            operation: operation(),
            pid: Some(4711),
            user: Some("robot".into()),
        }),
        Sample::event(RunSucceeded(report())),
        Sample::event(RunFailed(report())),
        Sample::event(RunTimedOut(report())),
        Sample::event(RunCanceled(report())),
        Sample::event(RunInterrupted(report())),
        Sample::event(RunRejected {
            operation: operation(),
            cause: RefusalCause::Policy,
            reason: "exec of /usr/bin/tee is not in exec.allow of /etc/muster/policy.toml".into(),
        }),
        Sample::event(RunExpired { operation: operation() }),
        Sample::event(UploadErased { cause: EraseCause::Replaced }),
        Sample::event(UploadStalled { bytes: 7 << 20, reason: "the disk is full".into() }),
        Sample::event(DownloadLinkMade {
            secret: digest("secret"),
            expires_at: order().expires_at,
        }),
    ]
}

pub(super) fn samples() -> Vec<Sample> {
    let cancel = CancelOrder {
        project: ProjectId::default_project(),
        device: DeviceId(id(1)),
        epoch: Epoch(2),
        operation: operation(),
        issued_at: NOW,
    };
    let (run, cancel) = (Message::RunOrder(order()), Message::CancelOrder(cancel));
    let sealed = Message::Sealed(Kind::Run, Box::new(run.clone()));
    let delivery = RunDelivery {
        order: sealed.encode(),
        private: Some(codec::encode(&private_input())),
        sealed: None,
    };
    let delivery_sealed =
        RunDelivery { private: None, sealed: Some(vec![7; 80]), ..delivery.clone() };
    let piece = OutputPiece {
        operation: operation(),
        stream: OutputStream::Stderr,
        offset: 0,
        bytes: 6,
        data: b"hello\n".to_vec(),
        sealed: false,
        compressed: false,
        last: true,
        salt: Some(vec![6; 16]),
        total: None,
    };
    let file = OutputPiece {
        stream: OutputStream::File,
        last: false,
        total: Some(52_428_800),
        ..piece.clone()
    };
    let piece_sealed = OutputPiece { data: vec![7; 54], sealed: true, ..piece.clone() };
    let upload = RunOrder { action: upload(), private: None, ..order() };
    let stored = RunReport {
        exit_code: None,
        signal: None,
        problem: None,
        stdout: OutputSummary::default(),
        file: Some(FileSummary {
            name: "logs.tar.gz".into(),
            bytes: 52_428_800,
            hash: digest("file"),
            is_folder: true,
        }),
        ..report()
    };
    let refusal =
        OutputTaken { next: 0, reader: None, refused: Some("it was erased".into()), receipt: None };
    let all = FileStored {
        project: ProjectId::default_project(),
        device: DeviceId(id(1)),
        operation: operation(),
        bytes: 52_428_800,
    };
    let receipt = Message::Sealed(Kind::Stored, Box::new(Message::FileStored(all.clone())));
    let whole = OutputTaken {
        next: all.bytes,
        reader: None,
        refused: None,
        receipt: Some(receipt.encode()),
    };
    let messages = [
        ("RunOrder", run),
        ("SealedRunOrder", sealed),
        ("RunDelivery", Message::RunDelivery(delivery)),
        ("SealedRunDelivery", Message::RunDelivery(delivery_sealed)),
        ("PrivateInput", Message::PrivateInput(private_input())),
        ("SealedCancelOrder", Message::Sealed(Kind::Cancel, Box::new(cancel.clone()))),
        ("CancelOrder", cancel),
        ("OutputPiece", Message::OutputPiece(piece)),
        (
            "OutputTaken",
            Message::OutputTaken(OutputTaken {
                next: 6,
                reader: None,
                refused: None,
                receipt: None,
            }),
        ),
        (
            "LiveOutputTaken",
            Message::OutputTaken(OutputTaken {
                next: 5 << 20,
                reader: Some(true),
                refused: None,
                receipt: None,
            }),
        ),
        ("UploadOrder", Message::RunOrder(upload)),
        ("UploadReport", Message::Event(RunSucceeded(stored).into())),
        ("FilePiece", Message::OutputPiece(file)),
        ("SealedOutputPiece", Message::OutputPiece(piece_sealed)),
        ("FileRefused", Message::OutputTaken(refusal)),
        ("FileStored", Message::FileStored(all)),
        ("SealedFileStored", receipt),
        ("FileTaken", Message::OutputTaken(whole)),
    ];
    let messages = messages.into_iter().map(|(name, message)| Sample::newest(name, message));
    events().into_iter().chain(messages).collect()
}
