from tests.fakes import *
def test_x(serve):
    w = serve(StepByStep())
    job = w.post(num_images=2)
    print(job)
    w.runner.allow(4)
    for e in w.stream(job["job_id"]): print(e)
    print(w.job(job["job_id"]))
