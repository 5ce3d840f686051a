"""Load tests of a frontend: what `tokenwire bench` runs.

| module       | holds                                                                   |
|--------------|-------------------------------------------------------------------------|
| options      | the command line: options, and each scenario's defaults                 |
| scenarios    | what each scenario runs, phase by phase                                 |
| plan         | a phase: flows of requests, when they start and what they ask for       |
| lengths      | distributions of lengths and times                                      |
| arrivals     | when requests start; a trace read from a file                           |
| vocabulary   | words of the served model's tokenizer, from which prompts are made      |
| prompts      | prompts: shared prefixes, conversations, chats                          |
| checks       | options that cannot be honoured                                         |
| runner       | a whole run, from the first request to the result                       |
| doubts       | what makes figures less than they seem                                  |
| fleet        | the load processes, as the command sees them                            |
| loader       | one load process                                                        |
| calls        | the three RPCs that carry a generation                                  |
| reading      | one generation: its times, and the check that nothing of it is missing  |
| measures     | what a flow's generations add up to, over time                          |
| figures      | percentiles, rates, goodput and their noise, from the measures          |
| watch        | the processes of this machine while a phase is measured                 |
| processes    | CPU time and memory of processes on this machine                        |
| summary      | a result's figures over all rounds                                      |
| results      | the result file                                                         |
| comparison   | two results side by side                                                |
| progress     | what is printed while it runs, and at its end                           |
| report/      | the HTML pages                                                          |
"""
