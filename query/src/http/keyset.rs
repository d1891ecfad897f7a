//! Pages of lists that PostgreSQL sorts by a unique column. A page starts after the last row of the
//! previous one, so its cost does not depend on how many pages precede it, and rows that are added
//! meanwhile repeat or hide none.

use muster_api::{Cursor, Limit, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{Encode, FromRow, Postgres, QueryBuilder, Type};

use crate::state::{QueryState, sql_problem};

/// Order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

/// The requested page of a list.
#[derive(Debug)]
pub(super) struct Keyset<Key> {
    column: &'static str,
    order: Order,
    /// Key of the last row of the previous page.
    after: Option<Key>,
    limit: usize,
}

impl<Key> Keyset<Key>
where
    Key: Serialize
        + DeserializeOwned
        + Type<Postgres>
        + for<'q> Encode<'q, Postgres>
        + Send
        + 'static,
{
    /// Fails when `cursor` is not a cursor of this list.
    pub(super) fn new(
        column: &'static str,
        order: Order,
        cursor: Option<&str>,
        limit: Limit,
    ) -> Result<Self, Problem> {
        let after = Cursor::decode(cursor)?;
        Ok(Self { column, order, after, limit: usize::from(limit.get()) })
    }

    /// Reads the page from a query that ends with its last condition; returns its rows and the
    /// cursor of the next page.
    pub(super) async fn read<Row>(
        self,
        state: &QueryState,
        mut sql: QueryBuilder<Postgres>,
        key: impl Fn(&Row) -> Key,
    ) -> Result<(Vec<Row>, Option<String>), Problem>
    where
        Row: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let (column, limit) = (self.column, self.limit);
        let (order, comparison) = match self.order {
            Order::Ascending => ("ASC", '>'),
            Order::Descending => ("DESC", '<'),
        };
        if let Some(after) = self.after {
            sql.push(format!(" AND {column} {comparison} ")).push_bind(after);
        }
        // One additional row shows whether there is a next page.
        sql.push(format!(" ORDER BY {column} {order} LIMIT "));
        sql.push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let mut rows: Vec<Row> =
            sql.build_query_as().fetch_all(state.sql()).await.map_err(sql_problem)?;
        let is_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| is_more).map(|row| Cursor::encode(&key(row)));
        Ok((rows, next))
    }
}
