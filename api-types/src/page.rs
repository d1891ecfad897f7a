//! Lists: a page of items, and the start of the next page.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, Schema};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::dead_letters::DeadLetter;
use crate::events::Event;
use crate::metrics::Measurement;
use crate::operations::Operation;
use crate::projects::Project;
use crate::runs::Run;
use crate::server::Projection;
use crate::sessions::Session;
use crate::tokens::{ApiToken, EnrollmentToken};
use crate::uploads::Upload;

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// Items of the page.
    pub items: Vec<T>,
    /// Value for `cursor` to read the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// By hand: the derived schema repeats the items' schema instead of a reference to it, and
/// generators then give the items of each list a type of their own.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new()
            .items(Ref::from_schema_name(T::name()))
            .description(Some("Items of the page."));
        let next = ObjectBuilder::new().schema_type(Type::String).description(Some(
            "Value for `cursor` to read the next page; absent on the last page.",
        ));
        ObjectBuilder::new()
            .description(Some("A page of a list."))
            .property("items", items)
            .property("next", next)
            .required("items")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

// The document names a type with parameters after them, so that each page has a name of its own.
/// A page of operations.
pub type OperationPage = Page<Operation>;
/// A page of runs.
pub type RunPage = Page<Run>;
/// A page of uploads.
pub type UploadPage = Page<Upload>;
/// A page of sessions.
pub type SessionPage = Page<Session>;
/// A page of events.
pub type EventPage = Page<Event>;
/// A page of measurements.
pub type MeasurementPage = Page<Measurement>;
/// A page of enrollment tokens.
pub type EnrollmentTokenPage = Page<EnrollmentToken>;
/// A page of API tokens.
pub type ApiTokenPage = Page<ApiToken>;
/// A page of projects.
pub type ProjectPage = Page<Project>;
/// A page of projections.
pub type ProjectionPage = Page<Projection>;
/// A page of dead letters.
pub type DeadLetterPage = Page<DeadLetter>;
