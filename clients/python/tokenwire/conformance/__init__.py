"""Checks of a deployment against the rules of docs/contract.md: what `tokenwire conformance` runs.

| module       | holds                                                                      |
|--------------|----------------------------------------------------------------------------|
| rule         | a rule, and how its check ends                                             |
| rules        | all rules, by number                                                       |
| parts/       | the checks: one module for each part of the contract                       |
| deployment   | the deployment: its stubs, its model, and the requests that checks make    |
| session_call | a Session call                                                             |
| reflected    | the contract that the deployment has                                       |
| answer       | the events of one generation, and what must hold of any                    |
| refusal      | what an error says                                                         |
| runner       | a run, rule by rule                                                        |
| report       | what is printed, and the result as JSON                                    |

Checks use the stubs alone: the client library would hide what it repairs.
"""
