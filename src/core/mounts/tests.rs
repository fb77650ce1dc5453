//! The decision as a table, and what holds for any policy and any folder.

use super::*;
use proptest::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const fn id(inode: u64) -> Identity {
    Identity { device: 1, inode }
}

/// A way by names and numbers: `("srv", 2)`; the first step is `/`, which is number 1.
fn way(steps: &[(&str, u64)]) -> Way {
    let root = std::iter::once((String::new(), id(1)));
    Way(root.chain(steps.iter().map(|(name, inode)| ((*name).to_owned(), id(*inode)))).collect())
}

/// Of a folder that has one way, on a disk.
fn decide(policy: &Policy, way: &Way, read_write: bool) -> Decision {
    policy.decide(Asked { way, others: &[], kind: "ext4" }, read_write)
}

fn place(path: &str, above: &[u64], own: Option<u64>, closed: bool) -> Place {
    let above = above.iter().copied().map(id).collect();
    Place { path: path.to_owned(), what: "a place".to_owned(), own: own.map(id), above, closed }
}

fn root(path: &str, own: u64, read_write: bool) -> Root {
    Root { path: path.to_owned(), own: id(own), read_write }
}

/// /srv(2)/ann(3): her home, with projects(4)/site(5), .local(6)/state(7), photos(8).
fn house() -> Result<Policy> {
    let mut blocked = Blocked::built_in()?;
    blocked.push(Blocked::by_owner("node_modules".to_owned().try_into()?));
    Ok(Policy {
        places: vec![
            place("/", &[], Some(1), false),
            place("/srv/ann", &[1, 2], Some(3), false),
            place("/srv/ann/.local/state", &[1, 2, 3, 6], Some(7), true),
            place("/srv/ann/run/missing", &[1, 2, 3, 9], None, true),
        ],
        sockets: vec![],
        unseen: None,
        kinds: Kinds::shipped()?,
        blocked,
        roots: vec![root("~/projects", 4, false), root("~/projects/site", 5, true)],
    })
}

const PROJECTS: [(&str, u64); 3] = [("srv", 2), ("ann", 3), ("projects", 4)];

fn below(base: &[(&'static str, u64)], more: &[(&'static str, u64)]) -> Way {
    way(&[base, more].concat())
}

#[test]
fn each_step_has_its_say() -> Result<()> {
    let policy = house()?;
    let home = [("srv", 2), ("ann", 3)];
    let cases: Vec<(Way, bool, &str)> = vec![
        (way(&PROJECTS), false, "granted"),
        (way(&PROJECTS), true, "~/projects allows reading only"),
        (below(&PROJECTS, &[("x", 20)]), false, "granted"),
        (below(&PROJECTS, &[("site", 5)]), true, "granted"),
        (below(&PROJECTS, &[("site", 5), ("x", 20)]), true, "granted"),
        (below(&PROJECTS, &[("site", 5), (".env", 20)]), false, ".env is blocked (.env)"),
        (below(&PROJECTS, &[("node_modules", 20), ("x", 21)]), false, "your allowlist says so"),
        (below(&PROJECTS, &[("node_modules_2", 20)]), false, "granted"),
        (below(&PROJECTS, &[("x.PEM", 20)]), false, "x.PEM is blocked (*.pem)"),
        (below(&home, &[("photos", 8)]), false, "no folder of the allowlist contains it"),
        (way(&[]), false, "it is /, a place"),
        (way(&home), false, "it is /srv/ann, a place"),
        (way(&[("srv", 2)]), false, "it contains /srv/ann, a place"),
        (below(&home, &[(".local", 6)]), false, "it contains /srv/ann/.local/state"),
        (below(&home, &[(".local", 6), ("state", 7)]), false, "it is /srv/ann/.local/state"),
        (below(&home, &[(".local", 6), ("state", 7), ("x", 20)]), false, "it lies in /srv/ann/.lo"),
        (below(&home, &[("run", 9)]), false, "it contains /srv/ann/run/missing"),
        // The same folders by other names: a bind mount has their device and inode.
        (way(&[("mnt", 30), ("p", 4), ("x", 20)]), false, "granted"),
        (way(&[("mnt", 30), ("s", 7)]), false, "it is /srv/ann/.local/state"),
        (below(&PROJECTS, &[("l", 6)]), false, "it contains /srv/ann/.local/state"),
    ];
    for (way, read_write, words) in cases {
        let decision = decide(&policy, &way, read_write);
        let said =
            decision.verdict.as_ref().map_or_else(ToString::to_string, |()| "granted".into());
        assert!(said.starts_with(words) || said.contains(words), "{way:?}: {said}");
        let steps: Vec<_> = decision.passed.iter().map(|passed| passed.step).collect();
        let all = [Step::Places, Step::Kind, Step::Names, Step::Root, Step::Access];
        assert!(all.starts_with(&steps), "{steps:?}");
        if let Err(refusal) = decision.verdict {
            assert_eq!(all.get(steps.len()), Some(&refusal.step()), "the step after the last");
            assert!(!refusal.hint().is_empty());
        }
    }
    Ok(())
}

#[test]
fn another_way_counts_where_it_leads_into_something_and_not_where_a_root_is_on_it() -> Result<()> {
    let policy = house()?;
    // Bind mounts at ~/projects/x of what these ways lead to, each from the top of its disk.
    for (other, words) in [
        (way(&[("srv", 2), ("ann", 3), ("photos", 8), ("x", 20)]), "granted"),
        (Way(vec![("state".into(), id(7)), ("x".into(), id(20))]), "it lies in /srv/ann/.local/s"),
        (Way(vec![(String::new(), id(30)), (".ssh".into(), id(31)), ("x".into(), id(20))]), ".ssh"),
    ] {
        let way = below(&PROJECTS, &[("x", 20)]);
        let asked = Asked { way: &way, others: &[other], kind: "ext4" };
        let said = policy.decide(asked, false).verdict;
        let said = said.map_or_else(|refusal| refusal.to_string(), |()| "granted".into());
        assert!(said.contains(words), "{said}, not {words}");
    }
    let (elsewhere, root) = (way(&[("mnt", 30), ("x", 20)]), way(&PROJECTS));
    let asked = Asked { way: &elsewhere, others: &[root], kind: "ext4" };
    assert_eq!(policy.decide(asked, false).verdict, Err(Refusal::NoRoot));
    Ok(())
}

#[test]
fn a_socket_keeps_what_contains_it_out_and_the_kernels_files_are_nobodys() -> Result<()> {
    let mut policy = house()?;
    policy.sockets.push(place("/srv/ann/projects/site/s.sock", &[1, 2, 3, 4, 5], Some(9), true));
    let projects = decide(&policy, &way(&PROJECTS), false).verdict;
    let said = projects.err().ok_or("granted")?.to_string();
    assert!(said.contains("it contains /srv/ann/projects/site/s.sock"), "{said}");
    assert_eq!(decide(&policy, &below(&PROJECTS, &[("x", 20)]), false).verdict, Ok(()));
    let way = below(&PROJECTS, &[("x", 20)]);
    let asked = Asked { way: &way, others: &[], kind: "proc" };
    let refused = policy.decide(asked, false).verdict;
    assert_eq!(refused, Err(Refusal::Kind { kind: "proc".into() }));
    Ok(())
}

#[test]
fn nothing_is_granted_without_a_list() -> Result<()> {
    let policy = Policy { roots: Vec::new(), ..house()? };
    assert_eq!(decide(&policy, &way(&PROJECTS), false).verdict, Err(Refusal::NoRoot));
    assert_eq!(decide(&policy, &Way(Vec::new()), false).verdict, Err(Refusal::NoRoot));
    Ok(())
}

#[test]
fn the_nearest_root_decides_and_of_two_the_stricter() -> Result<()> {
    let site = below(&PROJECTS, &[("site", 5)]);
    for (outer, inner, writes) in
        [(true, false, false), (false, true, true), (true, true, true), (false, false, false)]
    {
        let roots = vec![root("outer", 4, outer), root("inner", 5, inner)];
        let policy = Policy { roots, ..house()? };
        assert_eq!(decide(&policy, &site, true).verdict.is_ok(), writes, "{outer} {inner}");
        assert_eq!(decide(&policy, &site, false).verdict, Ok(()));
    }
    for order in [[true, false], [false, true]] {
        let roots = order.map(|read_write| root("same", 5, read_write)).to_vec();
        let verdict = decide(&Policy { roots, ..house()? }, &site, true).verdict;
        assert_eq!(verdict, Err(Refusal::ReadOnly { root: "same".to_owned() }));
    }
    Ok(())
}

prop_compose! {
    /// Few numbers and few names, so that everything meets everything.
    fn any_way()(steps in prop::collection::vec(("[abc]", 2_u64..12), 0..6)) -> Way {
        let steps: Vec<_> = steps.iter().map(|(name, inode)| (name.as_str(), *inode)).collect();
        way(&steps)
    }
}

prop_compose! {
    fn any_policy()(
        places in prop::collection::vec(
            (prop::collection::vec(2_u64..12, 0..2), prop::option::of(2_u64..12), any::<bool>()),
            0..2,
        ),
        sockets in prop::collection::vec(2_u64..12, 0..2),
        blocked in prop::collection::vec("[abc](/[abc])?", 0..2),
        roots in prop::collection::vec((1_u64..12, any::<bool>()), 0..5),
    ) -> Policy {
        let pattern = |text: &String| text.clone().try_into().ok().map(Blocked::by_owner);
        Policy {
            places: places
                .iter()
                .map(|(above, own, closed)| place("p", above, *own, *closed))
                .collect(),
            sockets: sockets.iter().map(|above| place("s", &[*above], None, true)).collect(),
            unseen: None,
            kinds: Kinds::shipped().unwrap_or_default(),
            blocked: blocked.iter().filter_map(pattern).collect(),
            roots: roots.iter().map(|(own, write)| root("r", *own, *write)).collect(),
        }
    }
}

proptest! {
    #![proptest_config(crate::core::arbitrary::config())]

    #[test]
    fn what_is_granted_is_in_a_root_in_no_place_and_has_no_blocked_name(
        policy in any_policy(), way in any_way(), other in any_way(), write in any::<bool>(),
        is_disk in any::<bool>(),
    ) {
        let kind = if is_disk { "ext4" } else { "proc" };
        let asked = Asked { way: &way, others: std::slice::from_ref(&other), kind };
        let granted = policy.decide(asked, write).verdict.is_ok();
        let steps: Vec<Identity> = way.0.iter().map(|(_, step)| *step).collect();
        let passed = |place: Identity| [&way, &other].iter().any(|way| {
            way.0.iter().any(|(_, step)| *step == place)
        });
        let folder = steps.last().copied();
        let in_root = |root: &Root| steps.contains(&root.own) && (root.read_write || !write);
        let touched = |place: &Place| {
            folder.is_some_and(|folder| place.own == Some(folder) || place.above.contains(&folder))
                || place.closed && place.own.is_some_and(passed)
        };
        let text = |way: &Way| {
            let names: Vec<_> = way.0.iter().map(|(name, _)| name.as_str()).collect();
            format!("{}/", names.join("/"))
        };
        let named = |b: &Blocked| {
            let name = format!("/{}/", b.pattern);
            text(&way).contains(&name) || text(&other).contains(&name)
        };
        let mut refused = policy.places.iter().chain(&policy.sockets);
        let against = refused.any(touched) || policy.blocked.iter().any(named) || !is_disk;
        if granted {
            prop_assert!(policy.roots.iter().any(in_root));
            prop_assert!(!against);
        } else if !write {
            prop_assert!(against || !policy.roots.iter().any(in_root));
        }
    }

    #[test]
    fn a_stricter_list_grants_nothing_new(
        policy in any_policy(), more in any_policy(), way in any_way(), write in any::<bool>(),
    ) {
        let granted = |policy: &Policy, write| decide(policy, &way, write).verdict.is_ok();
        let mut stricter = policy.clone();
        stricter.places.extend(more.places);
        stricter.blocked.extend(more.blocked);
        prop_assert!(granted(&policy, write) || !granted(&stricter, write));
        prop_assert!(granted(&policy, false) || !granted(&policy, true), "writing includes reading");
        let mut reading = policy;
        reading.roots.iter_mut().for_each(|root| root.read_write = false);
        prop_assert!(!granted(&reading, true));
    }
}
