//! Positions at which a client resumes a stream of events: of one project a number, of all projects
//! `PROJECT:POSITION,…`.

use std::collections::HashMap;

use muster_schemas::{Position, ProjectId};

/// Maximum number of projects of which each event has all positions in its id. Beyond it, only the
/// last event of each read has an id, so that a client that resumes gets some events again.
const MAX_PROJECTS_PER_EVENT: usize = 20;

/// The projects of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Projects {
    /// One project.
    One(ProjectId),
    /// All projects, also those that are created meanwhile.
    All,
}

/// The position up to which each project was read. A project that is missing was not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Positions(pub(super) HashMap<ProjectId, Position>);

impl Positions {
    /// Parses an id; `None` if it is not one of a stream of these projects.
    pub(super) fn parse(projects: &Projects, text: &str) -> Option<Self> {
        let parsed = match projects {
            Projects::One(project) => {
                HashMap::from([(project.clone(), text.parse::<Position>().ok()?)])
            }
            Projects::All => {
                let pairs = text.split(',').map(|pair| {
                    let (project, position) = pair.split_once(':')?;
                    Some((project.parse().ok()?, position.parse().ok()?))
                });
                pairs.collect::<Option<_>>()?
            }
        };
        Some(Self(parsed))
    }

    pub(super) fn of(&self, project: &ProjectId) -> Position {
        self.0.get(project).copied().unwrap_or(Position::ZERO)
    }

    /// Returns the id of an event; `None` if it gets none.
    pub(super) fn id(&self, projects: &Projects, is_last: bool) -> Option<String> {
        match projects {
            Projects::One(project) => Some(self.of(project).to_string()),
            Projects::All if !is_last && self.0.len() > MAX_PROJECTS_PER_EVENT => None,
            Projects::All => {
                let mut pairs: Vec<String> = self
                    .0
                    .iter()
                    .map(|(project, position)| format!("{project}:{position}"))
                    .collect();
                pairs.sort_unstable();
                Some(pairs.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_parsed_as_the_positions_it_was_made_of() {
        let one = Projects::One("plant-7".parse().unwrap());
        let all = Projects::All;
        for (projects, id) in [(&one, "42"), (&all, "default:42,plant-7:17,system:0")] {
            let positions = Positions::parse(projects, id).unwrap();
            assert_eq!(positions.id(projects, false).as_deref(), Some(id));
        }
        assert_eq!(
            Positions::parse(&all, "default:42").unwrap().of(&"x".parse().unwrap()).get(),
            0
        );
        for (projects, id) in
            [(&one, "x"), (&one, "-1"), (&one, "default:42"), (&all, "42"), (&all, "default:42,")]
        {
            assert_eq!(Positions::parse(projects, id), None, "{id}");
        }
    }

    #[test]
    fn ids_of_many_projects_are_sent_once_for_each_read() {
        let projects = (0..=MAX_PROJECTS_PER_EVENT).map(|n| format!("p{n}").parse().unwrap());
        let positions = Positions(projects.map(|project| (project, Position(1))).collect());
        assert_eq!(positions.id(&Projects::All, false), None);
        assert!(positions.id(&Projects::All, true).is_some_and(|id| id.starts_with("p0:1,p10:1,")));
    }
}
