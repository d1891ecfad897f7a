//! Messages between devices and servers that are not events: enrollment, credentials, hello,
//! acks, config, operations.
//!
//! Messages that the agent acts on are signed by the project's operation key ([`Welcome`],
//! [`ConfigUpdate`], [`RunOrder`], [`CancelOrder`]); proofs of a device by its signing key.

mod channel;
mod enrollment;
pub mod internal;
mod operation;
mod session;
mod token_text;

pub use channel::{
    ChannelAnswer, ChannelOpen, ChannelRefusal, ChannelRefusalCause, FILE_PART_SUFFIX,
    MAX_DEVICE_CHANNELS, MAX_SFTP_HASH_BYTES, MAX_SFTP_IO_BYTES, Purpose, SFTP_SHA256,
    TerminalSize,
};
pub use enrollment::{
    ContinueProof, CredentialsProof, CredentialsRequest, CredentialsResponse, EnrollProof,
    EnrollRequest, EnrollResponse, EnrollWaiting, NonceRequest, NonceResponse,
};
pub use operation::{
    CancelOrder, FileStored, KIND_HEADER, MAX_FILE_PIECE_BYTES, MAX_OUTPUT_BYTES, MAX_PIECE_BYTES,
    MAX_PRIVATE_BYTES, MAX_UPLOAD_BYTES, MESSAGE_ID_HEADER, OutputPiece, OutputStream, OutputTaken,
    PrivateInput, RunDelivery, RunOrder, input_context, output_context, output_hash,
};
pub use session::{Ack, ConfigUpdate, Hello, NewEpoch, Welcome, config_context};
pub use token_text::{ApiTokenText, DownloadText, EnrollmentTokenText, InvalidToken};
