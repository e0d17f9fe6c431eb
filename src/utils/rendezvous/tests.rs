use super::*;

fn topology(variables: &[(&str, &str)], local_rank: Option<usize>) -> Result<Option<Topology>> {
    let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
    Topology::from_env(find, local_rank)
}

const TORCHRUN: [(&str, &str); 5] =
    [("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "node0"), ("MASTER_PORT", "29501")];

#[test]
fn one_process_needs_no_group() {
    assert_eq!(topology(&[], None).unwrap(), None);
    assert_eq!(topology(&[("WORLD_SIZE", "1")], Some(0)).unwrap(), None);
    // A script of sbatch, and a program that it starts without srun.
    let script = [("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_JOB_NODELIST", "n1"), ("SLURM_LOCALID", "0")];
    assert_eq!(topology(&script, None).unwrap(), None);
}

#[test]
fn torchruns_variables_come_first() {
    let mut variables = TORCHRUN.to_vec();
    variables.extend([("SLURM_PROCID", "7"), ("SLURM_STEP_NUM_TASKS", "9")]);
    let found = topology(&variables, None).unwrap().unwrap();
    assert_eq!((found.rank, found.local_rank, found.world_size), (3, 1, 4));
    assert_eq!((found.master_addr.as_str(), found.master_port, found.agent_store), ("node0", 29501, false));
    assert_eq!(topology(&variables, Some(2)).unwrap().unwrap().local_rank, 2);

    variables.extend([("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "job")]);
    variables.push(("TORCHELASTIC_RESTART_COUNT", "2"));
    let found = topology(&variables, None).unwrap().unwrap();
    assert_eq!((found.agent_store, found.prefix.as_str()), (true, "maskrcnn_benchmark/job/2"));
}

#[test]
fn slurm_and_open_mpi_are_understood() {
    let slurm = [("SLURM_PROCID", "5"), ("SLURM_LOCALID", "1"), ("SLURM_STEP_NUM_TASKS", "8")];
    let variables = [&slurm[..], &[("SLURM_JOB_NODELIST", "gpu[03-07,12]-a,cpu1")]].concat();
    let found = topology(&variables, None).unwrap().unwrap();
    assert_eq!((found.rank, found.local_rank, found.world_size), (5, 1, 8));
    assert_eq!((found.master_addr.as_str(), found.master_port), ("gpu03-a", DEFAULT_PORT));

    let mut variables = vec![("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
    variables.push(("OMPI_COMM_WORLD_LOCAL_SIZE", "2"));
    assert_eq!(topology(&variables, None).unwrap().unwrap().master_addr, "127.0.0.1");
    // mpirun starts its own helpers with srun.
    let helper = [("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_PROCID", "0")];
    let found = topology(&[&variables[..], &helper].concat(), None).unwrap().unwrap();
    assert_eq!((found.rank, found.world_size), (1, 2));
    variables[2].1 = "1";
    assert!(topology(&variables, None).unwrap_err().to_string().contains("MASTER_ADDR"));
}

#[test]
fn tasks_that_nobody_starts_are_noticed() {
    let said = |variables: &[(&str, &str)]| {
        tasks_without_srun(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    };
    let script = [("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")];
    assert!(said(&script).is_some_and(|text| text.contains("8 tasks")));
    for other in [("WORLD_SIZE", "2"), ("SLURM_STEP_NUM_TASKS", "1"), ("OMPI_COMM_WORLD_SIZE", "8")] {
        assert_eq!(said(&[&script[..], &[other]].concat()), None);
    }
    assert_eq!((said(&[("SLURM_NTASKS", "1"), ("SLURM_PROCID", "0")]), said(&script[..1])), (None, None));
}

#[test]
fn node_lists_begin_with_the_first_node() {
    for (list, first) in [("a,b", "a"), ("n[1-3]", "n1"), ("n[7]", "n7"), ("r[2,4]n[05-06],x", "r2n05")] {
        assert_eq!(first_node(list).as_deref(), Some(first), "{list}");
    }
    assert_eq!((first_node(""), first_node("n[1")), (None, None));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    for missing in ["RANK", "MASTER_ADDR", "MASTER_PORT"] {
        let variables: Vec<_> = TORCHRUN.into_iter().filter(|(name, _)| *name != missing).collect();
        let error = topology(&variables, None).unwrap_err().to_string();
        assert!(error.contains(&format!("but {missing} is not set")), "{error}");
    }
    for (name, value, words) in
        [("RANK", "4", "rank 4"), ("WORLD_SIZE", "many", "\"many\""), ("MASTER_PORT", "1e6", "MASTER_PORT")]
    {
        let variables = TORCHRUN.map(|(n, v)| (n, if n == name { value } else { v }));
        let error = format!("{:#}", topology(&variables, None).unwrap_err());
        assert!(error.contains(words), "{error}");
    }
}

fn member(rank: usize, world_size: usize, port: u16) -> Topology {
    let (rank, size, port) = (rank.to_string(), world_size.to_string(), port.to_string());
    let variables = [
        ("RANK", rank.as_str()),
        ("WORLD_SIZE", size.as_str()),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port.as_str()),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
    ];
    topology(&variables, None).unwrap().unwrap()
}

#[test]
fn processes_that_do_not_fit_together_say_so() {
    let timeout = Duration::from_millis(300);
    let agent = Store::host("127.0.0.1", 0, Duration::from_secs(20)).unwrap();
    let failure = |topology: Topology| format!("{:#}", topology.meet(timeout, None).err().expect("an error"));

    let error = failure(member(1, 3, agent.port()));
    assert!(error.contains("rank 1 of 3") && error.contains("for rank 0, 2, which did not come"), "{error}");
    assert!(error.contains(&format!("127.0.0.1:{}", agent.port())), "{error}");
    let error = failure(member(1, 3, agent.port()));
    assert!(error.contains("another process has rank 1 too"), "{error}");
    let error = failure(member(0, 2, agent.port()));
    assert!(error.contains("2 processes here and 3 in rank 1"), "{error}");
}
