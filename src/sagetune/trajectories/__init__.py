"""FireAct: agents act, their good runs are kept and become training data. No torch outside the local agent."""
