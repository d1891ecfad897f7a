//! The client that progenitor generates from the OpenAPI document.
#![allow(clippy::all, missing_docs, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/client.rs"));
